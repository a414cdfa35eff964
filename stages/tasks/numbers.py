"""The numbers in a text, each read whole: 1/2, 2 × 10^3 and √3 are one number, the 2 of cm^2 is none."""

import math
import re

from stages.parsing.notation import plain
from stages.tasks.answers import answer_text, concluded

_DIGITS = r"(?:\d+(?:\.\d+)?|\.\d+)"
# Before a space, a minus is a sign where nothing stands in front that something could be taken from.
_SIGN = "|".join(
    [r"(?<![\w.)^%°])-", r"\A\s?-\s", r"(?<=[=(\[,:;<>≈])-\s", r"(?<=[=(\[,:;<>≈]\s)-\s"]
    + [rf"(?<=\b{word}\s)-\s" for word in ("is", "of", "to", "by", "or", "be", "are", "was", "and", "equals", "about")]
)
_NUMBER = re.compile(
    rf"""
    (?P<sign>{_SIGN})?
    (?<![\w^]) (?<!\d\.) (?<!\^[-(]) (?<!\^\(-) (?<!\d[/:+×*]) (?<!\d\s[-+×*x/]\s)          # not a part of another
    (?=[\d.√π]) (?:
        (?P<whole>\d+)\s(?P<top>\d+)/(?P<bottom>\d+)                                        # 1 1/2
      | (?P<factor>{_DIGITS})? (?:\^(?P<power>-?{_DIGITS}))? (?:\s?√(?P<root>{_DIGITS}))? (?P<pi>\s?π(?!\w))?
        (?: e(?P<exponent>[-+]?\d+) | \s?[×*x]\s?10\^(?P<ten>[-+]?\d+) )?
        (?: \s?/\s? (?P<below>√)?(?P<divisor>{_DIGITS}) )?
    )
    (?! [\d√π^] | \.\d | [:/]\d | \s?[+×*x]\s?\d | \s[-/]\s\d )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SPACED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\s\d{3})+(?![\d/])")  # 12 500, where one number is looked for
_FRACTION_OF = re.compile(r"\((-?\d+)/(\d+)\)\s?(π|√\d+)")
_BRACKETED = re.compile(rf"([\^√])\((-?{_DIGITS})\)")
_TOTAL = re.compile(r"(?<=\d)(\s\(?|(?:\s[a-z]{1,20}){0,2}\s\(?out\s)of\s(?:the\s|a\stotal\sof\s)?\d[\d.]*")
_REMARK = re.compile(r"(?<!\S)\([^()]*+\)")


def numbers(text: str) -> list[float]:
    """The numbers in a text, in order. Fractions, powers, roots, signs and thousands separators belong to them, units
    and their exponents do not; times, ratios, dates and sums are none."""
    text = _SPACED.sub(lambda digits: "".join(digits[0].split()), plain(text))
    found = _NUMBER.finditer(_FRACTION_OF.sub(r"\1\3/\2", _BRACKETED.sub(r"\1\2", text)))
    return [value for match in found if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> float | None:
    """None where nothing was matched, or more than a float holds."""
    part = {name: float(digits) for name, digits in match.groupdict().items() if digits and digits[-1].isdigit()}
    if not part and not match["pi"]:
        return None
    try:
        if match["whole"]:
            value = part["whole"] + part["top"] / part["bottom"]
        else:
            value = part.get("factor", 1.0) ** part.get("power", 1.0) * math.sqrt(part.get("root", 1.0))
            value *= (math.pi if match["pi"] else 1.0) * 10.0 ** (part.get("exponent", 0.0) + part.get("ten", 0.0))
            value /= math.sqrt(part["divisor"]) if match["below"] else part.get("divisor", 1.0)
    except (OverflowError, ZeroDivisionError):
        return None
    return (-value if match["sign"] else value) if math.isfinite(value) else None


def last_number(completion: str) -> str | None:
    """The number a completion ends on, of its conclusion where it has one; as digits, or None. What stands in brackets
    behind, and the whole that it is counted of as in "7 of 10", is not the answer where there is another number."""
    text = answer_text(completion) or ""
    for part in (concluded(text), text):
        said = _TOTAL.sub(r"\1", plain(part).strip())
        if found := numbers(_REMARK.sub(" ", said)) or numbers(said):
            return f"{found[-1]:.15g}"
    return None
