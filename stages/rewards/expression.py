"""A reward as it is written: "0.9*majority + 0.1*format".

    expression = [sign] summand {sign summand}      sign = "+" | "-"
    summand    = [number "*"] name                  0.5*answer, .5 * answer, 1e-3*answer, answer

A name holds letters, digits, _ and -, so that the sign - needs a space before it. Read, never evaluated.
"""

import math
import re
from collections.abc import Collection

from stages.errors import UsageError
from stages.rewards.choices import unknown

_SUMMAND = re.compile(
    r"\s* (?:(?P<number> (?:\d+\.?\d*|\.\d+) (?:e[+-]?\d+)?) \s*\*\s*)? (?P<name> [a-z_] (?:[\w-]*\w)?) \s*",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)


def parse(text: str, known: Collection[str]) -> dict[str, float]:
    """The weight of each term in `text`, in its order; `known` are the terms that there are.

    Raises UsageError, with the place, for what is no such sum, for a term that is unknown or there twice, and for a
    weight too large for a number.
    """
    text = text.strip()
    weights: dict[str, float] = {}
    place = 0
    while place < len(text) or not weights:
        sign = text[place : place + 1]
        if sign in ("+", "-"):
            place += 1
        elif weights:
            raise _error(text, place, "expected + or -")
        summand = _SUMMAND.match(text, place)
        if summand is None:
            raise _error(text, place, "expected a term, as in 0.9*majority + 0.1*format")
        name, weight = summand["name"], float(summand["number"] or 1)
        if name not in known:
            raise _error(text, summand.start("name"), unknown("term", name, known))
        if name in weights:
            raise _error(text, summand.start("name"), f"{name} is there twice; give it one weight")
        if not math.isfinite(weight):
            raise _error(text, summand.start("number"), f"{summand['number']} is too large")
        weights[name] = -weight if sign == "-" else weight
        place = summand.end()
    return weights


def _error(text: str, place: int, what: str) -> UsageError:
    return UsageError(f"{text!r}, character {place + 1}: {what}")
