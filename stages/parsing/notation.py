"""One plain spelling for the many notations of one answer: marks of other scripts, LaTeX, grouped digits.

Model text is untrusted: every function is total, and takes time linear in the length of the text.
"""

import re
import unicodedata

DEEPEST = 32  # layers of LaTeX groups that are taken apart: more is an attack, not an answer
THIN = "\u2009"  # a space that does not end a word: thin, hair, figure and no-break spaces, `\\,` and its like
_OPEN, _CLOSE = "\ue000", "\ue001"  # braces of a set, while groups are taken apart: no text holds private characters

# ------------------------------------------------------------------------------------------- other scripts

_SPELLINGS = {
    "-": "−‐‑‒–—―﹣－➖",
    '"': "“”„‟«»「」『』《》〈〉〝〞〟″",
    "'": "‘’‚‛‹›′´",
    "(": "【〔〖",
    ")": "】〕〗",
    "<": "⟨",
    ">": "⟩",
    ". ": "。｡！।۔።։",  # with a space: none of them is a decimal point or a factorial
    ", ": "、､﹑،",  # nor separates thousands
    ".": "٫",
    ",": "٬",
    "!": "¡",
    "?": "¿؟",
    ";": "؛",
    ":": "∶",
    "%": "٪",
    "...": "⋯",
    "°": "º˚",
    "/": "÷⁄∕",
    "×": "·⋅∙",
    "~": "〜∼",
    "<=": "≤⩽≦",
    ">=": "≥⩾≧",
    "!=": "≠",
    THIN: "\u00a0\u2007\u2008\u2009\u200a\u202f\u205f",
    "\n": "\n",
}
_SAME = {character: same for same, characters in _SPELLINGS.items() for character in characters}


class _Spelling(dict[int, str]):
    """What stands for a character, by its code point; made when first asked for, as `str.translate` does."""

    def __missing__(self, code: int) -> str:
        same = _spelling(chr(code))
        if code < 0x10000:  # what is kept stays small, whatever a model writes
            self[code] = same
        return same


def _spelling(character: str) -> str:
    if (same := _SAME.get(character)) is not None:
        return same
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Cs", "Cn", "Co"):
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    kind = unicodedata.decomposition(character).partition(">")[0]
    if kind not in _COMPATIBLE:
        return character
    parts = "".join(_spelling(part) for part in unicodedata.normalize("NFKC", character))
    if kind == "<square":  # ㎡ is a form of m2
        parts = re.sub(r"(\d)$", r"^\1", parts)
    if kind == "<fraction":
        parts = parts.replace("/", "}{")
    return _COMPATIBLE[kind].format(parts)


# How Unicode says what a character is a form of, and what is written for it.
_COMPATIBLE = dict.fromkeys(("<wide", "<narrow", "<small", "<font", "<compat", "<square"), "{}") | {
    "<super": "^{{{}}}", "<sub": "_{{{}}}", "<circle": "({})", "<fraction": "\\frac{{{}}}",
}  # fmt: skip
_TABLE = _Spelling()


def spelled(text: str) -> str:
    """The text with digits, letters and marks of other scripts and typography as ASCII has them, powers and fractions
    as LaTeX has them, and without control characters; white space is single characters of it, line breaks stay."""
    if text.isascii():
        return text.translate(_TABLE)
    text = unicodedata.normalize("NFC", text).translate(_TABLE)
    return unicodedata.normalize("NFC", text.replace("}^{", "").replace("}_{", ""))


# --------------------------------------------------------------------------------------------------- LaTeX

_SYMBOLS = {
    "times": "×", "cdot": "×", "div": "/", "pm": "±", "approx": "≈", "sim": "≈", "leq": "<=", "le": "<=",
    "leqslant": "<=", "geq": ">=", "ge": ">=", "geqslant": ">=", "neq": "!=", "ne": "!=", "lt": "<", "gt": ">",
    "infty": "∞", "degree": "°", "angle": "∠", "triangle": "△", "langle": "<", "rangle": ">", "lbrace": _OPEN,
    "rbrace": _CLOSE, "ldots": "...", "dots": "...", "cdots": "...", "cup": "∪", "cap": "∩", "circ": "°", "to": "→",
    "rightarrow": "→", "prime": "'", "quad": " ", "qquad": " ", "left": "", "right": "", "big": "", "Big": "",
    "displaystyle": "", "pi": "π", "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε",
    "theta": "θ", "lambda": "λ", "mu": "μ", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ", "varphi": "φ",
    "omega": "ω", "Delta": "Δ", "Omega": "Ω", "Sigma": "Σ",
}  # fmt: skip
_MARKUP = re.compile(r"[\\{}^√]|sqrt|_\d")
_OPENING, _CLOSING = re.compile(r"(?<!\\)\\++\{"), re.compile(r"(?<!\\)\\++\}")
_COMMAND = re.compile(r"\\([A-Za-z]++)[ ]*+")
_SPACING = re.compile(r"\{\\[,;: ]\}|\\[,;:> ]")
_DELIMITER = re.compile(r"\\[()\[\]]")
_ESCAPE = re.compile(r"(?<!\\)\\++([%$&#_{}])")
_DOLLAR = re.compile(r"(?<!\\)\$")
_DOUBLED = re.compile(r"(?<!\\)\\{2,}+(?=[A-Za-z])")
_DEGREE = re.compile(r"[ ]?(?:\{\})?\^[ ]?(?:\{[ ]?(?:\\circ|°)[ ]?\}|\\circ(?![A-Za-z])|°)")
_GROUP = re.compile(
    r"\\(?:boxed|fbox|mbox|text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt|normal)|operatorname)[ ]*+"
    r"\{([^{}]*+)\}"
)
_FRACTION = re.compile(r"\\[dtc]?frac[ ]*+(?:\{([^{}]*+)\}|(\d))[ ]*+(?:\{([^{}]*+)\}|(\d))")
_ROOT = re.compile(
    r"\\sqrt[ ]*+(?:\{([^{}]*+)\}|(\d++|[A-Za-z](?![A-Za-z])))|(?<![A-Za-z])sqrt\(([^()]*+)\)|√\(([^()]*+)\)"
)
_SCRIPT = re.compile(r"([\^_])[ ]?\{([^{}]*+)\}")
_SUBSCRIPT = re.compile(r"(?<=[^\W\d_])_(\d++)")  # of H_2O, which is also H2O
_SINGLE = re.compile(r"√?(?:\d+(?:\.\d+)?|[^\W\d_])")
_FACTOR = re.compile(r"-?√?\w+(?:\.\d+)?")
_TILDE = re.compile(r"(?<=[^\W\d_])~|~(?![ ]*\d)")  # LaTeX's space, where it is not "about" nor between two numbers
_ABOUT = re.compile(r"(?<!\d)(?<!\d )~[ ]*(?=\d)")
_IN_WORDS = re.compile(r"deg|cent", re.IGNORECASE)
_SPELLED_OUT = re.compile(
    r"(?<=\d)[ ]?(?:(deg(?:rees?)?)\b(?:[ ](c|f)(?:elsius|ahrenheit)?\b)?|per[ ]?cent\b)", re.IGNORECASE
)


def plain(text: str) -> str:
    """`spelled`, with LaTeX written out and no separators in numbers: 1\\,200 is 1200, \\dfrac12 is 1/2, 90^\\circ and
    90 degrees are 90°.

    Brackets keep the meaning: \\frac{1}{2}x is (1/2)x, and 1\\frac{1}{2} is 1 1/2. A pair of numbers in brackets is a
    pair, not one number with a comma in it. Whether letters are small or capital is left as it is.
    """
    text = spelled(text)
    if _MARKUP.search(text):
        text = _written_out(text)
    if "~" in text:
        text = _ABOUT.sub("≈", _TILDE.sub(" ", text))
    if _IN_WORDS.search(text):
        text = _SPELLED_OUT.sub(lambda word: f"°{(word[2] or '').upper()}" if word[1] else "%", text)
    if _GROUP_OF_DIGITS.search(text):
        text = _GROUPED.sub(_in_one, text)
    return text.replace(THIN, " ")


def _written_out(text: str) -> str:
    if "\\$" in text:  # then the others are around a formula
        text = _DOLLAR.sub("", text)
    text = _CLOSING.sub(_CLOSE, _OPENING.sub(_OPEN, _DOUBLED.sub(r"\\", text).replace("{,}", ",").replace("\\!", "")))
    text = _DELIMITER.sub(" ", _SPACING.sub(THIN, _DEGREE.sub("°", text)))
    text = _COMMAND.sub(lambda command: _SYMBOLS.get(command[1], command[0]), text)
    for _ in range(DEEPEST):  # from the inside out
        before = text
        text = _SCRIPT.sub(_script, _ROOT.sub(_root, _FRACTION.sub(_fraction, _GROUP.sub(r"\1", text))))
        if text == before:
            break
    return _ESCAPE.sub(r"\1", _SUBSCRIPT.sub(r"\1", text)).replace(_OPEN, "{").replace(_CLOSE, "}")


def _around(match: re.Match[str]) -> tuple[str, str]:
    """The characters before and behind it, empty at the ends."""
    return match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]


def _fraction(match: re.Match[str]) -> str:
    top, bottom = (match[1] or match[2] or "").strip(), (match[3] or match[4] or "").strip()
    before, behind = _around(match)
    ratio = f"{top if _FACTOR.fullmatch(top) else f'({top})'}/{bottom if _SINGLE.fullmatch(bottom) else f'({bottom})'}"
    if before.isdigit() and top.isdigit() and bottom.isdigit():
        return f" {ratio}"
    joined = before.isalnum() or behind.isalnum() or before in tuple(")]}^/_!|") or behind in tuple("([{^!|√")
    return f"({ratio})" if joined else ratio


def _root(match: re.Match[str]) -> str:
    radicand = next(group for group in match.groups() if group is not None).strip()
    bare = re.fullmatch(r"\d+(?:\.\d+)?|[^\W\d_]", radicand) and not re.match(r"[\w.^]", _around(match)[1])
    return f"√{radicand}" if bare else f"√({radicand})"


def _script(match: re.Match[str]) -> str:
    inside, behind = match[2].strip(), _around(match)[1]
    if re.fullmatch(r"-?\d+", inside):
        bare = not behind.isdigit()  # which would run on
    else:
        bare = not behind.isalnum() and re.fullmatch(r"\w" if match[1] == "^" else r"\w+", inside) is not None
    return f"{match[1]}{inside}" if bare else f"{match[1]}({inside})"


# ------------------------------------------------------------------------------------------ grouped digits

_GROUP_OF_DIGITS = re.compile(rf"\d[,.' {THIN}]\d{{3}}")
_GROUPED = re.compile(
    rf"""
    (?<![\d.]) (?<!\d[,'{THIN}]) (?:
        [1-9]\d{{0,2}} (?:,\d{{3}})+ (?!,?\d)                                                # 1,234,567
      | (?P<german> [1-9]\d{{0,2}} (?: (?:\.\d{{3}})+ ,\d+ | (?:\.\d{{3}}){{2,}} ) (?![.,]?\d))  # 1.234,5
      | (?P<spaced> [1-9]\d{{0,2}} (?P<by>['{THIN}]) \d{{3}} (?:(?P=by)\d{{3}})* (?:[.,]\d+)? (?!(?P=by)?\d))
      | (?<!\d[ ]) [1-9]\d{{0,2}} (?: (?:[ ]\d{{3}}){{2,}} | [ ]0\d\d ) (?![ ]?\d)           # nothing else is meant
    )
    """,
    re.VERBOSE,
)


def _in_one(match: re.Match[str]) -> str:
    """The digits without what groups them, and with a decimal point."""
    number, start, end = match[0], match.start(), match.end()
    before = match.string[max(0, start - 4) : start].rstrip(" +-")[-1:]
    behind = match.string[end : end + 3].lstrip()[:1]
    if match["spaced"] is None and before in ("(", "[", "{") and behind in (")", "]", "}"):
        return number  # (100,200) is a pair
    if match["german"] is not None:
        return number.replace(".", "").replace(",", ".")
    if match["spaced"] is not None:
        return number.replace(match["by"], "").replace(",", ".")
    return number.replace(",", "").replace(" ", "")
