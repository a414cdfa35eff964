"""A mathematical answer taken apart: what is a list and in which brackets, what is its unit, what is the name in front
of "=", and whether what is left is an expression from beginning to end.

Works on text as `stages.parsing.notation.plain` writes it.
"""

import re

_FUNCTIONS = "arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp"
_SYMBOLS = {
    "×": "\\times ", "π": "\\pi ", "∞": "\\infty ", "±": "\\pm ", "∪": "\\cup ", "∩": "\\cap ", "α": "\\alpha ",
    "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "θ": "\\theta ", "λ": "\\lambda ", "μ": "\\mu ", "ρ": "\\rho ",
    "σ": "\\sigma ", "φ": "\\phi ", "ω": "\\omega ", "Δ": "\\Delta ",
}  # fmt: skip
_TOKEN = "|".join(
    (r"\d+(?:\.\d+)?", r"\.\d+", rf"(?:{_FUNCTIONS})(?![A-Za-z])", r"[A-Za-z]{1,3}(?![A-Za-z])", r"(?<=[\w)])!",
     r"(?<=\d)%", r"(?<=\d)\s?:\s?(?=\d)", r"(?<!\d)\s", r"\s(?![\d.])", r"[-+×/^_=<>()\[\]{}|,√]",
     rf"[{''.join(_SYMBOLS)}]")
)  # fmt: skip
_EXPRESSION = re.compile(rf"(?:{_TOKEN})+")
_DANGLING = re.compile(r"^\s*[×/^_=!)\]}]|[-+×/^_=<>(\[{√±]\s*$|\d_")
_WORD = re.compile(rf"(?:^|\s)(?!(?:{_FUNCTIONS})\b)[A-Za-z]{{2,}}(?=\s|$)")

_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_CLOSING = frozenset(_BRACKETS.values())


def as_latex(text: str) -> str | None:
    """The expression in the LaTeX that math-verify reads wholly; None for what is no expression, as a word or a part of
    a sentence."""
    text = re.sub(rf"\\({_FUNCTIONS})(?![A-Za-z])", r"\1", text.replace("°", ""))
    for notation, same in _REWRITTEN:
        text = notation.sub(same, text)
    if _WORD.search(text) or _DANGLING.search(text) or not _EXPRESSION.fullmatch(text) or not _balanced(text):
        return None
    for notation, same in _AS_LATEX:
        before = ""
        while text != before:  # from the inside out
            before, text = text, notation.sub(same, text)
    return None if "√" in text else "".join(_SYMBOLS.get(character, character) for character in text)


_REWRITTEN = [
    (re.compile(r"(?<=[\w)])\s?\*\s?(?=[\w(√])"), "×"),
    (re.compile(r"(?<![A-Za-z])pi(?![A-Za-z])"), "π"),
    (re.compile(r"(?<![A-Za-z])sqrt ?(\d+)"), r"√\1"),
    (re.compile(r"log_?(\d+) ([\w.]+)"), r"log_\1(\2)"),
    (re.compile(r"(?<![\w.])(\d+) (\d+)/(\d+)(?![\w./])"), r"(\1+\2/\3)"),  # 1 1/2
    (re.compile(r"(\d)[eE]([-+]?\d+)(?!\w)"), r"\1×10^(\2)"),
    (re.compile(r"(?<![\w.^/])(\d+/\d+)\s+(?=[A-Za-zπ√])"), r"(\1)"),  # 1/2 x is no 1/(2x)
]
_AS_LATEX = [
    (re.compile(r"(?<=\d)(?<!log_\d)(?<!log_\d\d)\("), "×("),  # math-verify reads 2(3) as 2 + 3
    (re.compile(r"\^\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\^(-?\w+)"), r"^{\1}"),
    (re.compile(r"√\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"√(\d+(?:\.\d+)?|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])"), r"\\\1 "),
]


def _balanced(text: str) -> bool:
    """Whether every bracket that opens is closed; an interval may close with another than it opens with."""
    depth = 0
    for character in text:
        depth += (character in _BRACKETS) - (character in _CLOSING)
        if depth < 0:
            return False
    return not depth and text.count("|") % 2 == 0


def items(text: str) -> tuple[str, list[str]]:
    """The brackets around a list and its items: two characters, or none; one item where it is no list."""
    text = text.strip()
    while _wrapped(text):
        parts = _split(text[1:-1])
        if len(parts) > 1:
            return text[0] + text[-1], parts
        text = text[1:-1].strip()
    return "", _split(text)


def _wrapped(text: str) -> bool:
    """Whether the bracket at the beginning closes at the end, and not before."""
    if len(text) < 3 or text[0] not in _BRACKETS or text[-1] not in _CLOSING:
        return False
    depth = 0
    for character in text[:-1]:
        depth += (character in _BRACKETS) - (character in _CLOSING)
        if not depth:
            return False
    return depth == 1


def _split(text: str) -> list[str]:
    """The parts between commas, semicolons, "and" and "or" that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for mark in re.finditer(r"[(\[{]|[)\]}]|[,;](?:\s+(?:and|or)\b)?|\s(?:and|or)\s", text):
        depth += (mark[0] in _BRACKETS) - (mark[0] in _CLOSING)
        if not depth and mark[0] not in _CLOSING:
            parts.append(text[start : mark.start()].strip())
            start = mark.end()
    return [*parts, text[start:].strip()]


# --------------------------------------------------------------------------------------------------- units

_ABBREVIATED = (
    "mm|cm|dm|km|m|mi|ft|in|yd|mg|kg|lb|oz|ml|mL|cl|cL|ms|min|hr|hrs|mph|Hz|kHz|Pa|kPa|kJ|kW|mA|kV|rad|cc|°C|°F|°"
)
_SPACED = "g|h|s|L|N|J|W|V|A|K"  # else the variables of those names
_NO_UNITS = f"{_FUNCTIONS}|and|or|not|mod|percent|dozens?|hundreds?|thousands?|[a-z]*illions?|hal(?:f|ves)|[a-z]+ths?"
_SPELLED_OUT = rf"(?!(?:{_NO_UNITS})\b)[A-Za-z]{{3,20}}\.?"
_SCALE = r"(?:square|cubic|sq\.?|cu\.?)\s"
_UNIT = re.compile(
    rf"(?<=[\d)π])(?:\s*(?:{_ABBREVIATED})|\s(?:{_SCALE})?(?:{_SPELLED_OUT}|{_ABBREVIATED}|{_SPACED}))(?:\^[23])?"
    rf"(?:\s?(?:/|per)\s?(?:{_ABBREVIATED}|{_SPACED}|{_SPELLED_OUT})(?:\^[23])?)?$"
)
_METRES = re.compile(r"\b(milli|centi|deci|kilo)?(?:metre|meter)s?\b")
_NAMES = {"inches": "in", "inch": "in", "feet": "ft", "foot": "ft", "degree": "°", "degrees": "°", "deg": "°"}


def unit_of(text: str) -> tuple[str, str]:
    """A quantity without its unit, and the unit under one name, empty where there is none or it is just "units"."""
    found = _UNIT.search(text)
    if not found:
        return text, ""
    unit = _METRES.sub(lambda name: f"{(name[1] or '')[:1]}m", found[0].strip().rstrip("."))
    if scaled := re.match(_SCALE, unit):
        unit = unit[scaled.end() :] + ("^2" if unit.startswith("sq") else "^3")
    unit = re.sub(r"[A-Za-z]+", lambda name: _NAMES.get(name[0], name[0]), unit)
    unit = re.sub(r"(?<=[a-z]{3})s\b", "", unit).replace(" ", "").replace("per", "/")
    return text[: found.start()].strip(), "" if unit.startswith("unit") else unit


# --------------------------------------------------------------------------------------------------- names

_EQUALS = re.compile(r"(?<![<>!])=|≈")
_NAME = re.compile(r"(?:[^\d\s+×/^<>-][^+×/^<>-]*)?")  # no operator, no number in front: of x, ∠ABC, f(x), x_1
_REASON = re.compile(
    r"(?:\.\s|[,;.]?\s+(?:because|since|as|which|where|so|therefore|thus|given|due|by)\b).*\Z", re.DOTALL
)
_SAID = re.compile(r"\A(?:(?!not\b)[A-Za-z'’,]+\s+){0,12}(?:is|are|equals|be|about|approximately)\s+")


def without_reason(text: str) -> str:
    """The answer without the sentence or clause behind it that says why."""
    return _REASON.sub("", text)


def is_equation(text: str) -> bool:
    return _EQUALS.search(text) is not None


def value_of(text: str) -> str | None:
    """What an equation says of a name, as 12 of x = 12, or of other numbers, as 7 of 3 + 4 = 7; None where it says
    something else, as 3x = 36 does. A text without "=" is its own value, without "It is" in front."""
    *fronts, value = _EQUALS.split(_SAID.sub("", text.strip(), count=1))
    known = all(_NAME.fullmatch(front.strip()) or not re.search(r"[A-Za-z]", front) for front in fronts)
    return value.strip() if known else None
