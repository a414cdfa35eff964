"""The chart world: charts, questions about them, and solutions that are true step by step.

Everything is a pure function of small frozen values: a `Chart` says what is drawn, an `Ask` says what is
asked, and `solve` gives the one right solution, or None where the chart cannot answer. Randomness only enters
through the `random.Random` that the drawing functions take.

A chart is drawn as bars, as points on a line, as dots or as a pie (`drawing`), and spoken of in the words of its
style (`WORDS`). Everything else is the same for all of them: a row of marks with a value and a colour each.

The values of a chart decide whether it is held out (`Chart.held_out`). Training and the pool use the others
only, so a benchmark chart shows a row of values that nothing was ever trained on, in any style.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ireasoner_cli.demo.drawing import COLOURS, Style, paint, to_png

PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Words:
    """How charts of a style are spoken of: what a mark is called, and how its value is asked for."""

    mark: str
    how: str  # the word between "how" and "is the first bar"
    value: str
    apart: str  # the words between "how" and "are the first bar and the second bar"
    most: str
    least: str


WORDS: dict[Style, Words] = {
    "bars": Words("bar", "tall", "height", "far apart", "tallest", "shortest"),
    "lines": Words("point", "high", "height", "far apart in height", "highest", "lowest"),
    "dots": Words("dot", "high", "height", "far apart in height", "highest", "lowest"),
    "pie": Words("slice", "large", "size", "far apart in size", "largest", "smallest"),
}


@dataclass(frozen=True)
class Level:
    """How hard a chart and its questions are.

    `marks` is the fewest and the most there are, `top` the greatest value. With `finding`, questions may be
    about a mark that has to be found first, by its colour or by how tall it is; otherwise they name its place.
    `colours` is how many of COLOURS there are to tell apart. With `ghosts`, a grey bar stands half behind each
    mark. A row of values spans at most `spread` units. `shaded` is another hand's shades and paper.
    """

    marks: tuple[int, int]
    top: int
    finding: bool
    styles: tuple[Style, ...] = ("bars",)
    colours: int = 6
    ghosts: bool = False
    spread: int | None = None
    shaded: bool = False


LEVELS = {
    1: Level((3, 4), 9, False),
    2: Level((4, 5), 9, True, colours=9, ghosts=True),
    3: Level((4, 5), 12, True, colours=9, ghosts=True, spread=4),
    4: Level((3, 4), 9, True, ("lines", "dots"), shaded=True),
    5: Level((3, 5), 9, True, ("pie",)),
    6: Level((5, 6), 9, True, ("bars", "lines", "dots", "pie")),
    7: Level((5, 6), 12, True, colours=9, ghosts=True),
}
# What pools and benchmarks are drawn from, and the world that self-play never sees.
HOME = (1, 2, 3)
ABROAD = (4,)
# Holds more than the demonstration's checkpoint has learned to read.
CROWDED = (2, 3, 7)


@dataclass(frozen=True)
class Chart:
    """Marks from left to right, or clockwise from the top of a pie.

    `values` are heights, or sizes of slices, in units from 1 to `top`; colours never repeat. `ghosts` are the
    heights of the grey bars behind the marks; no question is about them.
    """

    values: tuple[int, ...]
    colours: tuple[str, ...]
    level: int = 1
    style: Style = "bars"
    ghosts: tuple[int, ...] = ()

    @property
    def words(self) -> Words:
        """How this chart is spoken of."""
        return WORDS[self.style]

    @property
    def top(self) -> int:
        """The greatest value that a mark of this level can have."""
        return LEVELS[self.level].top

    @property
    def held_out(self) -> bool:
        """Whether this row of values is kept for benchmarks (one in eight is)."""
        return hashlib.sha256(repr(self.values).encode()).digest()[0] % 8 == 0

    def place(self, name: str) -> int | None:
        """The 0-based position of the mark a colour, an ordinal or "last" names; None if there is none."""
        if name in self.colours:
            return self.colours.index(name)
        if name == "last":
            return len(self.values) - 1
        index = PLACES.index(name) if name in PLACES else len(self.values)
        return index if index < len(self.values) else None

    def extreme(self, which: str) -> int | None:
        """The position of the tallest or shortest mark, in the words of the style; None when several tie for it."""
        value = self.extreme_value(which)
        return self.values.index(value) if self.values.count(value) == 1 else None

    def extreme_value(self, which: str) -> int:
        """The value of the tallest or shortest mark, in the words of the style."""
        return (max if which == self.words.most else min)(self.values)


def draw_chart(rng: random.Random, level: int = 1, held_out: bool = False) -> Chart:
    """A random chart of a level, from the held-out charts or from the others."""
    rules = LEVELS[level]
    colours = list(COLOURS)[: rules.colours]
    while True:
        style = rng.choice(rules.styles)
        count = rng.randint(*rules.marks)
        least, greatest = 1, rules.top
        if rules.spread is not None:
            least = rng.randint(1, rules.top - rules.spread)
            greatest = least + rules.spread
        values = tuple(rng.randint(least, greatest) for _ in range(count))
        ghosts = tuple(rng.randint(1, rules.top) for _ in range(count)) if rules.ghosts else ()
        chart = Chart(values, tuple(rng.sample(colours, count)), level, style, ghosts)
        if chart.held_out == held_out:
            return chart


def misread(chart: Chart, rate: float, rng: random.Random) -> Chart:
    """The chart as a careless reader sees it.

    Each value is off by one with probability `rate`, and as probably two marks have each other's colours.
    """
    values = tuple(
        min(max(value + rng.choice((-1, 1)), 1), chart.top) if rng.random() < rate else value for value in chart.values
    )
    colours = list(chart.colours)
    if rng.random() < rate:
        one, other = rng.sample(range(len(colours)), 2)
        colours[one], colours[other] = colours[other], colours[one]
    return replace(chart, values=values, colours=tuple(colours))


def render(chart: Chart) -> Image.Image:
    """The chart as a picture, in its style."""
    return paint(chart.style, chart.values, chart.colours, chart.top, chart.ghosts, LEVELS[chart.level].shaded)


Kind = Literal["value", "colour", "colours", "place", "sum", "difference", "total", "extreme", "which", "range"]

# Every way to ask each kind of question; {a} and {b} name a mark, {x} is the most or the least; the rest
# are the WORDS of a style.
WORDINGS: dict[Kind, tuple[str, ...]] = {
    "value": ("How {how} is the {a} {mark}?", "What is the {value} of the {a} {mark}?"),
    "colour": ("What colour is the {a} {mark}?", "What is the colour of the {a} {mark}?"),
    "colours": ("What are the colours of all {mark}s?", "Which colours have the {mark}s?"),
    "place": ("Which place has the {a} {mark}?", "What is the place of the {a} {mark}?"),
    "sum": (
        "What is the sum of the {a} {mark} and the {b} {mark}?",
        "How much are the {a} {mark} and the {b} {mark} together?",
    ),
    "difference": (
        "What is the difference between the {a} {mark} and the {b} {mark}?",
        "How {apart} are the {a} {mark} and the {b} {mark}?",
    ),
    "total": (
        "What is the total of all {mark}s?",
        "What is the sum of all {mark}s?",
        "How much are all {mark}s together?",
    ),
    "extreme": ("How {how} is the {x} {mark}?", "What is the {value} of the {x} {mark}?"),
    "which": ("What colour is the {x} {mark}?", "What is the colour of the {x} {mark}?"),
    "range": (
        "What is the difference between the {most} and the {least} {mark}?",
        "How {apart} are the {most} and the {least} {mark}?",
    ),
}

RATIONALES: dict[Kind, str] = {
    "value": "Reads one {mark}.",
    "colour": "Names one colour.",
    "colours": "Names all colours.",
    "place": "Finds one {mark}.",
    "sum": "Adds two {mark}s.",
    "difference": "Compares two {mark}s.",
    "total": "Adds all {mark}s.",
    "extreme": "Finds one {value}.",
    "which": "Finds one colour.",
    "range": "Compares all {mark}s.",
}

# The mix of kinds in benchmarks and in what the Proposer is taught to ask: mostly questions of several steps.
# Questions about which mark it is are left out at levels without `finding`.
MIX: dict[Kind, int] = {
    "value": 1,
    "colour": 1,
    "colours": 1,
    "place": 1,
    "sum": 4,
    "difference": 4,
    "total": 6,
    "extreme": 2,
    "which": 3,
    "range": 3,
}


@dataclass(frozen=True)
class Ask:
    """What a question asks, and of which style of chart.

    `names` are those of what it is about, in the order of its words.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    style: Style = "bars"


@dataclass(frozen=True)
class Solution:
    """The steps that lead to the answer, one claim each, and every spelling of the answer that is right."""

    steps: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def completion(self) -> str:
        """What a Solver that makes no mistake writes."""
        lines = "".join(f"Step {number}: {step}\n" for number, step in enumerate(self.steps, 1))
        return f"<think>\n{lines}</think>\n<answer>{self.answers[0]}</answer>"


@dataclass(frozen=True)
class Question:
    """A question in words, what it asks, and its true solution."""

    text: str
    ask: Ask
    solution: Solution


def solve(chart: Chart, ask: Ask) -> Solution | None:
    """The true solution of what is asked, or None if this chart has no single answer to it."""
    if ask.style != chart.style:
        return None
    match ask.kind:
        case "value" | "sum" | "difference":
            return _solve_named(chart, ask)
        case "colour":
            index = chart.place(ask.names[0])
            if index is None or ask.names[0] in COLOURS:
                return None
            return Solution((_claim(chart, ask.names[0], chart.colours[index]),), (chart.colours[index],))
        case "colours":
            return Solution(_colours(chart, len(chart.colours)), (", ".join(chart.colours),))
        case "place":
            index = chart.place(ask.names[0])
            if index is None or ask.names[0] not in COLOURS:
                return None
            is_last = index == len(chart.values) - 1
            return Solution(_colours(chart, index + 1), (PLACES[index], "last") if is_last else (PLACES[index],))
        case "total":
            total, *rest = chart.values
            sums = []
            for value in rest:
                sums.append(f"{total} + {value} = {total + value}.")
                total += value
            return Solution((*_values(chart), *sums), (str(total),))
        case "extreme":
            value = chart.extreme_value(ask.names[0])
            return Solution((*_values(chart), _claim(chart, ask.names[0], value)), (str(value),))
        case "which":
            index = chart.extreme(ask.names[0])
            if index is None:
                return None
            found = _claim(chart, ask.names[0], f"the {PLACES[index]} {chart.words.mark}")
            named = _claim(chart, PLACES[index], chart.colours[index])
            return Solution((*_values(chart), found, named), (chart.colours[index],))
        case "range":
            most, least = max(chart.values), min(chart.values)
            return Solution((*_values(chart), f"{most} - {least} = {most - least}."), (str(most - least),))


def _solve_named(chart: Chart, ask: Ask) -> Solution | None:
    """Questions about the values of one or two named marks."""
    indices = [chart.place(name) for name in ask.names]
    found = [index for index in indices if index is not None]
    if len(set(found)) < len(indices):
        return None
    # A mark that is named by its colour is found by going through the colours from the first.
    looked_at = [index + 1 for name, index in zip(ask.names, found, strict=True) if name in COLOURS]
    values = [chart.values[index] for index in found]
    steps = [*_colours(chart, max(looked_at, default=0))]
    steps += [_claim(chart, PLACES[index], value) for index, value in zip(found, values, strict=True)]
    result = values[0]
    if ask.kind == "sum":
        result = sum(values)
        steps.append(f"{values[0]} + {values[1]} = {result}.")
    elif ask.kind == "difference":
        result = max(values) - min(values)
        steps.append(f"{max(values)} - {min(values)} = {result}.")
    return Solution(tuple(steps), (str(result),))


def _claim(chart: Chart, name: str, what: object) -> str:
    return f"The {name} {chart.words.mark} is {what}."


def _values(chart: Chart) -> tuple[str, ...]:
    return tuple(_claim(chart, place, value) for place, value in zip(PLACES, chart.values, strict=False))


def _colours(chart: Chart, count: int) -> tuple[str, ...]:
    """The colours of the first `count` marks."""
    return tuple(_claim(chart, place, colour) for place, colour in zip(PLACES, chart.colours[:count], strict=False))


def draw_ask(rng: random.Random, chart: Chart, mix: dict[Kind, int] = MIX) -> Ask:
    """Something the chart can answer, its kind drawn from the mix."""
    places = PLACES[: len(chart.values)]
    namings = (chart.colours, places) if LEVELS[chart.level].finding else (places,)
    while True:
        kind = rng.choices(list(mix), list(mix.values()))[0]
        match kind:
            case "place" | "which" if not LEVELS[chart.level].finding:
                continue
            case "extreme" | "which":
                names: tuple[str, ...] = (rng.choice((chart.words.most, chart.words.least)),)
            case "value":
                names = (rng.choice(rng.choice(namings)),)
            case "colour":
                names = (rng.choice(places),)
            case "place":
                names = (rng.choice(chart.colours),)
            case "sum" | "difference":
                # Two marks are named the same way, as people do.
                names = tuple(rng.sample(rng.choice(namings), 2))
            case _:
                names = ()
        ask = Ask(kind, names, chart.style)
        if solve(chart, ask):
            return ask


def phrase(ask: Ask, wording: str) -> str:
    """What is asked, in one of the WORDINGS of its kind and in the words of its style."""
    slots = "x" if ask.kind in ("extreme", "which") else "ab"
    return wording.format(**dict(zip(slots, ask.names, strict=False)), **asdict(WORDS[ask.style]))


def draw_question(rng: random.Random, chart: Chart, mix: dict[Kind, int] = MIX) -> Question:
    """A random question that the chart can answer."""
    ask = draw_ask(rng, chart, mix)
    solution = solve(chart, ask)
    assert solution is not None
    return Question(phrase(ask, rng.choice(WORDINGS[ask.kind])), ask, solution)


def _patterns() -> Iterator[tuple[Kind, Style, re.Pattern[str]]]:
    name = f"({'|'.join((*COLOURS, *PLACES, 'last'))})"
    for style, words in WORDS.items():
        extreme = f"({words.most}|{words.least})"
        for kind, wordings in WORDINGS.items():
            for wording in wordings:
                pattern = wording.replace("?", r"\?").format(a=name, b=name, x=extreme, **asdict(words))
                yield kind, style, re.compile(pattern, re.IGNORECASE)


_PATTERNS = tuple(_patterns())


def understand(text: str) -> Ask | None:
    """What a question in the world's own words asks; None for any other text."""
    for kind, style, pattern in _PATTERNS:
        if match := pattern.fullmatch(text.strip()):
            return Ask(kind, tuple(name.lower() for name in match.groups()), style)
    return None


def proposal(question: Question) -> str:
    """What a Proposer writes that asks this question."""
    rationale = RATIONALES[question.ask.kind].format(**asdict(WORDS[question.ask.style]))
    return f"<question>{question.text}</question>\n<rationale>{rationale}</rationale>"


def pool(count: int, seed: int = 0, levels: Sequence[int] = HOME) -> Iterator[Chart]:
    """The charts behind `write_pool`, for evidence that needs the truth of every step."""
    rng = random.Random(f"pool {seed}")
    for level in islice(cycle(levels), count):
        yield draw_chart(rng, level)


def write_pool(folder: Path, count: int, seed: int = 0, levels: Sequence[int] = HOME) -> list[Path]:
    """Write `count` unlabelled charts, none of them held out, the levels in turn, as PNG files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"chart-{index:05d}.png" for index in range(count)]
    for path, chart in zip(paths, pool(count, seed, levels), strict=True):
        path.write_bytes(to_png(render(chart)))
    return paths


def benchmark(count: int, seed: int = 0, levels: Sequence[int] = HOME) -> list[dict[str, Any]]:
    """Labelled held-out rows: id (it names the level), image (PNG bytes), question, answers, type."""
    rows = []
    for index, (chart, question) in enumerate(held_out_questions(count, seed, levels)):
        row = {
            "id": f"level{chart.level}-{index:05d}",
            "image": to_png(render(chart)),
            "question": question.text,
            "answers": list(question.solution.answers),
            "type": question.ask.kind,
        }
        rows.append(row)
    return rows


def held_out_questions(count: int, seed: int = 0, levels: Sequence[int] = HOME) -> Iterator[tuple[Chart, Question]]:
    """The charts and questions behind `benchmark`, for evidence that needs the truth of every step."""
    rng = random.Random(f"benchmark {seed}")
    for level in islice(cycle(levels), count):
        chart = draw_chart(rng, level, held_out=True)
        yield chart, draw_question(rng, chart)
