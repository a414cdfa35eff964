"""The chart world: bar charts, questions about them, and solutions that are true step by step.

Everything is a pure function of small frozen values: a `Chart` says what is drawn, an `Ask` says what is
asked, and `solve` gives the one right solution, or None where the chart cannot answer. Randomness only enters
through the `random.Random` that the drawing functions take.

The values of a chart decide whether it is held out (`Chart.held_out`). Training and the pool use the others
only, so a benchmark chart shows a row of heights that nothing was ever trained on.
"""

import hashlib
import io
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw

SIZE = 112  # pixels a side: 8 × 8 patches of 14, merged two by two into 16 image tokens
BASELINE = 106  # y of the axis, in pixels
MARGIN = 4  # pixels left and right of the bars

# Far apart in every channel, so that a small vision tower can tell them by their ink.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 20, 20),
    "green": (0, 170, 50),
    "blue": (30, 50, 230),
    "yellow": (250, 205, 0),
    "purple": (190, 0, 210),
    "black": (20, 20, 20),
}
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Level:
    """How hard a chart and its questions are.

    `bars` is the fewest and the most there are, `top` the greatest height. With `finding`, questions may be
    about a bar that has to be found first, by its colour or by how tall it is; otherwise they name its place.
    """

    bars: tuple[int, int]
    top: int
    finding: bool


LEVELS = {1: Level((3, 4), 9, False), 2: Level((4, 5), 9, True), 3: Level((5, 6), 12, True)}


@dataclass(frozen=True)
class Chart:
    """Bars from left to right: `values` are heights in units from 1 to `top`; colours never repeat."""

    values: tuple[int, ...]
    colours: tuple[str, ...]
    level: int = 1

    @property
    def top(self) -> int:
        """The greatest height that a bar of this level can have."""
        return LEVELS[self.level].top

    @property
    def held_out(self) -> bool:
        """Whether this row of heights is kept for benchmarks (one in eight is)."""
        return hashlib.sha256(repr(self.values).encode()).digest()[0] % 8 == 0

    def place(self, name: str) -> int | None:
        """The 0-based position of the bar a colour, an ordinal or "last" names; None if there is none."""
        if name in self.colours:
            return self.colours.index(name)
        if name == "last":
            return len(self.values) - 1
        index = PLACES.index(name) if name in PLACES else len(self.values)
        return index if index < len(self.values) else None

    def extreme(self, which: str) -> int | None:
        """The position of the "tallest" or "shortest" bar; None when several bars share that height."""
        height = (max if which == "tallest" else min)(self.values)
        return self.values.index(height) if self.values.count(height) == 1 else None


def draw_chart(rng: random.Random, level: int = 1, held_out: bool = False) -> Chart:
    """A random chart of a level, from the held-out charts or from the others."""
    fewest, most = LEVELS[level].bars
    while True:
        count = rng.randint(fewest, most)
        values = tuple(rng.randint(1, LEVELS[level].top) for _ in range(count))
        chart = Chart(values, tuple(rng.sample(list(COLOURS), count)), level)
        if chart.held_out == held_out:
            return chart


def misread(chart: Chart, rate: float, rng: random.Random) -> Chart:
    """The chart as a careless reader sees it.

    Each height is off by one with probability `rate`, and as probably two bars have each other's colours.
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
    """The chart as an RGB picture of SIZE × SIZE pixels, on white, with a line for each unit of height."""
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(picture)
    unit = (BASELINE - 8) // chart.top
    for height in range(1, chart.top + 1):
        draw.line((MARGIN, BASELINE - height * unit, SIZE - MARGIN, BASELINE - height * unit), (236, 236, 236))
    slot = (SIZE - 2 * MARGIN) / len(chart.values)
    for index, (value, colour) in enumerate(zip(chart.values, chart.colours, strict=True)):
        left = MARGIN + slot * (index + 0.2)
        box = (round(left), BASELINE - value * unit, round(left + slot * 0.6), BASELINE)
        draw.rectangle(box, COLOURS[colour])
    draw.line((0, BASELINE, SIZE, BASELINE), (90, 90, 90))
    return picture


def to_png(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


Kind = Literal["value", "colour", "colours", "place", "sum", "difference", "total", "extreme", "which", "range"]

# Every way to ask each kind of question; {a} and {b} name a bar, {x} is tallest or shortest.
WORDINGS: dict[Kind, tuple[str, ...]] = {
    "value": ("How tall is the {a} bar?", "What is the height of the {a} bar?"),
    "colour": ("What colour is the {a} bar?", "What is the colour of the {a} bar?"),
    "colours": ("What are the colours of all bars?", "Which colours have the bars?"),
    "place": ("Which place has the {a} bar?", "What is the place of the {a} bar?"),
    "sum": (
        "What is the sum of the {a} bar and the {b} bar?",
        "How much are the {a} bar and the {b} bar together?",
    ),
    "difference": (
        "What is the difference between the {a} bar and the {b} bar?",
        "How far apart are the {a} bar and the {b} bar?",
    ),
    "total": (
        "What is the total of all bars?",
        "What is the sum of all bars?",
        "How much are all bars together?",
    ),
    "extreme": ("How tall is the {x} bar?", "What is the height of the {x} bar?"),
    "which": ("What colour is the {x} bar?", "What is the colour of the {x} bar?"),
    "range": (
        "What is the difference between the tallest and the shortest bar?",
        "How far apart are the tallest and the shortest bar?",
    ),
}

RATIONALES: dict[Kind, str] = {
    "value": "Reads one bar.",
    "colour": "Names one colour.",
    "colours": "Names all colours.",
    "place": "Finds one bar.",
    "sum": "Adds two bars.",
    "difference": "Compares two bars.",
    "total": "Adds all bars.",
    "extreme": "Finds one height.",
    "which": "Finds one colour.",
    "range": "Compares all bars.",
}

# The mix of kinds in benchmarks and in what the Proposer is taught to ask: mostly questions of several steps.
# Questions about which bar it is are left out at levels without `finding`.
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
    """What a question asks: its kind, and the names of what it is about, in the order of its words."""

    kind: Kind
    names: tuple[str, ...] = ()


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
    match ask.kind:
        case "value" | "sum" | "difference":
            return _solve_named(chart, ask)
        case "colour":
            index = chart.place(ask.names[0])
            if index is None or ask.names[0] in COLOURS:
                return None
            return Solution((f"The {ask.names[0]} bar is {chart.colours[index]}.",), (chart.colours[index],))
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
            return Solution((*_heights(chart), *sums), (str(total),))
        case "extreme":
            value = (max if ask.names[0] == "tallest" else min)(chart.values)
            return Solution((*_heights(chart), f"The {ask.names[0]} bar is {value}."), (str(value),))
        case "which":
            index = chart.extreme(ask.names[0])
            if index is None:
                return None
            found = f"The {ask.names[0]} bar is the {PLACES[index]} bar."
            named = f"The {PLACES[index]} bar is {chart.colours[index]}."
            return Solution((*_heights(chart), found, named), (chart.colours[index],))
        case "range":
            tall, short = max(chart.values), min(chart.values)
            return Solution((*_heights(chart), f"{tall} - {short} = {tall - short}."), (str(tall - short),))


def _solve_named(chart: Chart, ask: Ask) -> Solution | None:
    """Questions about the heights of one or two named bars."""
    indices = [chart.place(name) for name in ask.names]
    found = [index for index in indices if index is not None]
    if len(set(found)) < len(indices):
        return None
    # A bar that is named by its colour is found by going through the colours from the left.
    looked_at = [index + 1 for name, index in zip(ask.names, found, strict=True) if name in COLOURS]
    values = [chart.values[index] for index in found]
    steps = [*_colours(chart, max(looked_at, default=0))]
    steps += [f"The {PLACES[index]} bar is {value}." for index, value in zip(found, values, strict=True)]
    result = values[0]
    if ask.kind == "sum":
        result = sum(values)
        steps.append(f"{values[0]} + {values[1]} = {result}.")
    elif ask.kind == "difference":
        result = max(values) - min(values)
        steps.append(f"{max(values)} - {min(values)} = {result}.")
    return Solution(tuple(steps), (str(result),))


def _heights(chart: Chart) -> tuple[str, ...]:
    return tuple(f"The {place} bar is {value}." for place, value in zip(PLACES, chart.values, strict=False))


def _colours(chart: Chart, count: int) -> tuple[str, ...]:
    """The colours of the first `count` bars."""
    named = zip(PLACES, chart.colours[:count], strict=False)
    return tuple(f"The {place} bar is {colour}." for place, colour in named)


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
                names: tuple[str, ...] = (rng.choice(("tallest", "shortest")),)
            case "value":
                names = (rng.choice(rng.choice(namings)),)
            case "colour":
                names = (rng.choice(places),)
            case "place":
                names = (rng.choice(chart.colours),)
            case "sum" | "difference":
                # Two bars are named the same way, as people do.
                names = tuple(rng.sample(rng.choice(namings), 2))
            case _:
                names = ()
        if solve(chart, Ask(kind, names)):
            return Ask(kind, names)


def phrase(ask: Ask, wording: str) -> str:
    """What is asked, in the words of one of the WORDINGS of its kind."""
    if ask.kind in ("extreme", "which"):
        return wording.format(x=ask.names[0])
    return wording.format(**dict(zip("ab", ask.names, strict=False)))


def draw_question(rng: random.Random, chart: Chart, mix: dict[Kind, int] = MIX) -> Question:
    """A random question that the chart can answer."""
    ask = draw_ask(rng, chart, mix)
    solution = solve(chart, ask)
    assert solution is not None
    return Question(phrase(ask, rng.choice(WORDINGS[ask.kind])), ask, solution)


def _patterns() -> Iterator[tuple[Kind, re.Pattern[str]]]:
    bar = "|".join((*COLOURS, *PLACES, "last"))
    for kind, wordings in WORDINGS.items():
        for wording in wordings:
            pattern = re.escape(wording).replace(r"\{x\}", "(tallest|shortest)")
            yield kind, re.compile(re.sub(r"\\\{[ab]\\\}", f"({bar})", pattern), re.IGNORECASE)


_PATTERNS = tuple(_patterns())


def understand(text: str) -> Ask | None:
    """What a question in the world's own words asks; None for any other text."""
    for kind, pattern in _PATTERNS:
        if match := pattern.fullmatch(text.strip()):
            return Ask(kind, tuple(name.lower() for name in match.groups()))
    return None


def proposal(question: Question) -> str:
    """What a Proposer writes that asks this question."""
    rationale = RATIONALES[question.ask.kind]
    return f"<question>{question.text}</question>\n<rationale>{rationale}</rationale>"


def write_pool(folder: Path, count: int, seed: int = 0, level: int = 1) -> list[Path]:
    """Write `count` unlabelled charts, none of them held out, as PNG files; returns their paths."""
    rng = random.Random(f"pool {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"chart-{index:05d}.png" for index in range(count)]
    for path in paths:
        path.write_bytes(to_png(render(draw_chart(rng, level))))
    return paths


def benchmark(count: int, seed: int = 0, level: int = 1) -> list[dict[str, Any]]:
    """Labelled held-out rows: id, image (PNG bytes), question, answers, type."""
    rows = []
    for index, (chart, question) in enumerate(held_out_questions(count, seed, level)):
        row = {
            "id": f"chart-{index:05d}",
            "image": to_png(render(chart)),
            "question": question.text,
            "answers": list(question.solution.answers),
            "type": question.ask.kind,
        }
        rows.append(row)
    return rows


def held_out_questions(count: int, seed: int = 0, level: int = 1) -> Iterator[tuple[Chart, Question]]:
    """The charts and questions behind `benchmark`, for evidence that needs the truth of every step."""
    rng = random.Random(f"benchmark {seed}")
    for _ in range(count):
        chart = draw_chart(rng, level, held_out=True)
        yield chart, draw_question(rng, chart)
