"""A second way of talking about charts: the world's claims in several phrasings, behind fillers, readings in any order.

`retold` says a solution so; `plain` gives the world's own words for a step, by which it is judged. What a step claims
is the same in both.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from ireasoner_cli.demo.drawing import COLOURS
from ireasoner_cli.demo.world import PLACES, WORDS, Solution

# Of each sort of claim: the world's own words for it, and the others.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "value": (
        "The {name} {mark} is {value}.",
        "The {name} {mark} reaches {value}.",
        "The {name} {mark} goes up to {value}.",
        "I read {value} for the {name} {mark}.",
    ),
    "colour": (
        "The {name} {mark} is {colour}.",
        "The {name} {mark} looks {colour}.",
        "I see {colour} on the {name} {mark}.",
    ),
    "same": (
        "The {name} {mark} is the {other} {mark}.",
        "The {name} {mark} must be the {other} {mark}.",
        "That makes the {other} {mark} the {name} {mark}.",
    ),
    "sum": ("{a} + {b} = {c}.", "{a} plus {b} is {c}.", "Adding {a} and {b} gives {c}."),
    "difference": ("{a} - {b} = {c}.", "{a} minus {b} is {c}.", "Taking {b} from {a} leaves {c}."),
}
FILLERS = ("Now ", "So ", "Then ", "Well, ", "Next, ")
FILLED = 0.5  # share of the steps with one
SHUFFLED = 0.25  # share of the solutions whose readings come in another order

_NAMES = "|".join(
    (*COLOURS, *PLACES, "last", *(name for words in WORDS.values() for name in (words.most, words.least)))
)
_SLOTS = {
    **dict.fromkeys(("name", "other"), _NAMES),
    "mark": "|".join(words.mark for words in WORDS.values()),
    "colour": "|".join(COLOURS),
    **dict.fromkeys(("value", "a", "b", "c"), r"-?\d{1,6}"),
}


def _pattern(phrasing: str) -> re.Pattern[str]:
    """What fits a phrasing. A slot that comes again holds the same again."""
    there: set[str] = set()

    def slot(match: re.Match[str]) -> str:
        name = match[1]
        again = name in there
        there.add(name)
        return rf"(?P={name})" if again else f"(?P<{name}>{_SLOTS[name]})"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", slot, re.escape(phrasing)), re.IGNORECASE)


_PATTERNS = {sort: tuple(map(_pattern, phrasings)) for sort, phrasings in PHRASINGS.items()}
_FILLER = re.compile("|".join(map(re.escape, FILLERS)), re.IGNORECASE)


def _read(step: str, own: bool = False) -> tuple[str, dict[str, str]] | None:
    """The sort of a claim and what is in its slots, looked for in the world's `own` words alone or in all."""
    for sort, patterns in _PATTERNS.items():
        for pattern in patterns[:1] if own else patterns:
            if match := pattern.fullmatch(step):
                return sort, match.groupdict()
    return None


def plain(step: str) -> str:
    """The step in the world's own words; as it is where it is no claim in any."""
    text = step[:200].strip()
    found = _read(_FILLER.sub("", text, count=1) if _FILLER.match(text) else text)
    return step if found is None else PHRASINGS[found[0]][0].format(**found[1])


def retold(rng: random.Random, solution: Solution) -> Solution:
    """The solution in other words, with fillers, and perhaps its readings in another order."""
    steps: list[str] = []
    for sort, run in groupby(solution.steps, key=lambda step: (_read(step, own=True) or ("", {}))[0]):
        told = list(run)
        if sort in ("value", "colour") and rng.random() < SHUFFLED:
            rng.shuffle(told)
        steps += told
    return replace(solution, steps=tuple(_said(rng, step) for step in steps))


def _said(rng: random.Random, step: str) -> str:
    found = _read(step, own=True)
    said = rng.choice(PHRASINGS[found[0]]).format(**found[1]) if found else step
    if rng.random() >= FILLED:
        return said
    return rng.choice(FILLERS) + (said if said.startswith("I ") else said[0].lower() + said[1:])


def content(step: str) -> list[tuple[int, int]]:
    """Where in the text of a step the words are that its claim hangs on: numbers, colours and names   [start, end)"""
    words = re.finditer(rf"\b(?:{_NAMES}|\d+)\b", step, re.IGNORECASE)
    return [match.span() for match in words]


def plain_steps(steps: Sequence[str]) -> list[str]:
    """All of them in the world's own words."""
    return [plain(step) for step in steps]
