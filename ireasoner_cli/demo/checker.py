"""Which steps of a completion are true of a chart. For evidence only: no reward ever sees this.

A step is judged as the claim it makes by itself: "3 + 4 = 7" is true even where the 3 was misread, for the
misreading is the fault of the step that made it.
"""

import re
from collections.abc import Sequence

from ireasoner_cli.demo.world import COLOURS, PLACES, WORDS, Chart, Words

# Bounds on what is looked at: whatever a model writes, checking it stays cheap.
_LONGEST_STEP = 200
_MOST_STEPS = 64

_THINK = re.compile(r"<think>(.*?)(?:</think>|<answer>|\Z)", re.IGNORECASE | re.DOTALL)
_STEP = re.compile(r"\s*step \d{1,3}:(.*)", re.IGNORECASE)
_SUM = re.compile(r"(\d{1,6}(?: [+-] \d{1,6}){1,16}) = (-?\d{1,6})\.?")


def _claim(words: Words) -> re.Pattern[str]:
    """What a step may say of a mark, in the words of a style."""
    colours = "|".join(COLOURS)
    name = "|".join((colours, *PLACES, "last", words.most, words.least))
    return re.compile(rf"the ({name}) {words.mark} is (?:(\d{{1,6}})|({colours})|the ({name}) {words.mark})\.?")


_CLAIMS = {style: _claim(words) for style, words in WORDS.items()}


def check_completion(completion: str, chart: Chart) -> list[bool | None]:
    """For each "Step k:" line of the reasoning: true, false, or None where it claims nothing checkable."""
    return check_steps(find_steps(completion), chart)


def find_steps(completion: str) -> list[str]:
    """The texts of the "Step k:" lines in the first reasoning block, at most the first 64."""
    block = _THINK.search(completion)
    lines = block[1].splitlines() if block else []
    matches = (_STEP.fullmatch(line[:_LONGEST_STEP]) for line in lines)
    return [match[1].strip() for match in matches if match][:_MOST_STEPS]


def check_steps(steps: Sequence[str], chart: Chart) -> list[bool | None]:
    """For each step, given without its marker: true, false, or None where it claims nothing checkable."""
    return [check_step(step, chart) for step in steps]


def check_step(step: str, chart: Chart) -> bool | None:
    """Whether one step is true of the chart; None where it is no claim in the world's words."""
    text = step[:_LONGEST_STEP].strip().lower()
    if match := _SUM.fullmatch(text):
        return _add_up(match[1]) == int(match[2])
    for style, pattern in _CLAIMS.items():
        if match := pattern.fullmatch(text):
            # There is no bar in a pie.
            return style == chart.style and _is_true(chart, *match.groups())
    return None


def _is_true(chart: Chart, name: str, value: str | None, colour: str | None, other: str) -> bool:
    """Whether a mark that the name fits has that value, or that colour, or fits the other name as well."""
    places = _places(name, chart)
    if value is not None:
        return any(chart.values[place] == int(value) for place in places)
    if colour is not None:
        return any(chart.colours[place] == colour for place in places)
    return bool(places & _places(other, chart))


def _places(name: str, chart: Chart) -> set[int]:
    """The positions of the marks that a name fits: several if some tie for the tallest, perhaps none."""
    if name in (chart.words.most, chart.words.least):
        extreme = chart.extreme_value(name)
        return {place for place, value in enumerate(chart.values) if value == extreme}
    place = chart.place(name)
    return set() if place is None else {place}


def _add_up(terms: str) -> int:
    """The value of "3 + 4 - 1"."""
    total, sign = 0, 1
    for part in terms.split():
        if part in "+-":
            sign = 1 if part == "+" else -1
        else:
            total += sign * int(part)
    return total
