"""The world is deterministic, its solutions are right, and its questions can be read back."""

import hashlib
import io
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ireasoner_cli.demo import drawing, world

seeds = st.integers(0, 2**32)
levels = st.sampled_from(sorted(world.LEVELS))


def chart_and_question(seed: int, level: int = 1) -> tuple[world.Chart, world.Question]:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    return chart, world.draw_question(rng, chart)


@given(seeds, levels)
def test_a_seed_gives_the_same_chart_question_and_picture(seed: int, level: int) -> None:
    chart, question = chart_and_question(seed, level)
    again, same_question = chart_and_question(seed, level)
    assert (chart, question) == (again, same_question)
    assert world.to_png(world.render(chart)) == world.to_png(world.render(again))


@given(seeds, levels)
def test_charts_keep_to_their_level(seed: int, level: int) -> None:
    chart, _ = chart_and_question(seed, level)
    fewest, most = world.LEVELS[level].marks
    assert fewest <= len(chart.values) <= most
    assert all(1 <= value <= world.LEVELS[level].top for value in chart.values)
    assert len(set(chart.colours)) == len(chart.colours) == len(chart.values)
    assert chart.style in world.LEVELS[level].styles


@pytest.mark.parametrize("level", sorted(world.LEVELS))
def test_a_level_draws_every_style_it_has(level: int) -> None:
    rng = random.Random(level)
    drawn = {world.draw_chart(rng, level).style for _ in range(100)}
    assert drawn == set(world.LEVELS[level].styles)


def ink(chart: world.Chart) -> list[list[tuple[int, int]]]:
    """The pixels (x, y) of each mark, found by its colour."""
    picture = world.render(chart)
    pixels = {(x, y): picture.getpixel((x, y)) for x in range(drawing.SIZE) for y in range(drawing.SIZE)}
    inks = [drawing.COLOURS[colour] for colour in chart.colours]
    if world.LEVELS[chart.level].shaded:
        inks = [drawing.other_shade(ink) for ink in inks]
    return [[at for at, seen in pixels.items() if seen == ink] for ink in inks]


@given(seeds, levels)
def test_a_mark_shows_its_value(seed: int, level: int) -> None:
    chart, _ = chart_and_question(seed, level)
    marks = ink(chart)
    if chart.style == "bars":
        # Equal widths up to a pixel of rounding: the coloured area is in proportion to the height.
        widths = [len(mark) / value for mark, value in zip(marks, chart.values, strict=True)]
        assert max(widths) <= min(widths) * 1.2
    elif chart.style == "pie":
        disc = sum(map(len, marks))
        for mark, value in zip(marks, chart.values, strict=True):
            assert abs(len(mark) / disc - value / sum(chart.values)) < 0.01
    else:
        unit = (drawing.BASELINE - 8) // chart.top
        for mark, value in zip(marks, chart.values, strict=True):
            middle = sum(y for _, y in mark) / len(mark)
            assert len(mark) > 40 and abs(middle - (drawing.BASELINE - value * unit)) < 0.5


@given(seeds, st.sampled_from(sorted(world.WORDS)))
def test_different_charts_are_different_pictures(seed: int, style: world.Style) -> None:
    rng = random.Random(seed)
    one, other = (replace(world.draw_chart(rng, 6), style=style) for _ in range(2))
    assert (world.render(one).tobytes() == world.render(other).tobytes()) is (one == other)


def test_slices_of_the_same_shares_differ_in_their_ticks() -> None:
    one, other = (world.Chart(values, ("red", "blue"), 5, "pie") for values in ((1, 2), (2, 4)))
    assert world.render(one).tobytes() != world.render(other).tobytes()


def test_styles_are_different_pictures() -> None:
    assert len({world.render(replace(CHART, style=style)).tobytes() for style in world.WORDS}) == 4


@given(seeds, levels)
def test_questions_read_back_as_what_they_ask(seed: int, level: int) -> None:
    _, question = chart_and_question(seed, level)
    assert world.understand(question.text) == question.ask


@pytest.mark.parametrize("text", ["", "Why?", "How tall is the mauve bar?", "How tall is the red bar? Yes."])
def test_other_questions_are_not_understood(text: str) -> None:
    assert world.understand(text) is None


@given(seeds, levels)
def test_every_wording_reads_back(seed: int, level: int) -> None:
    rng = random.Random(seed)
    ask = world.draw_ask(rng, world.draw_chart(rng, level))
    for wording in world.WORDINGS[ask.kind]:
        assert world.understand(world.phrase(ask, wording)) == ask
        assert world.understand(world.phrase(ask, wording).upper()) == ask


CHART = world.Chart((4, 7, 2, 7), ("red", "blue", "green", "black"))


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("How tall is the blue bar?", ("7",)),
        ("What is the height of the third bar?", ("2",)),
        ("What colour is the first bar?", ("red",)),
        ("Which place has the black bar?", ("fourth", "last")),
        ("What is the sum of the red bar and the green bar?", ("6",)),
        ("How far apart are the third bar and the second bar?", ("5",)),
        ("What is the total of all bars?", ("20",)),
        ("How tall is the tallest bar?", ("7",)),
        ("What colour is the shortest bar?", ("green",)),
        ("How far apart are the tallest and the shortest bar?", ("5",)),
    ],
)
def test_answers(text: str, answers: tuple[str, ...]) -> None:
    ask = world.understand(text)
    assert ask is not None
    solution = world.solve(CHART, ask)
    assert solution is not None and solution.answers == answers


@pytest.mark.parametrize(
    "text",
    [
        "How tall is the yellow bar?",
        "How tall is the sixth bar?",
        "What colour is the tallest bar?",  # two bars are
        "What colour is the red bar?",
        "What is the sum of the red bar and the first bar?",  # one bar, named twice
    ],
)
def test_what_the_chart_cannot_answer_has_no_solution(text: str) -> None:
    ask = world.understand(text)
    assert ask is not None and world.solve(CHART, ask) is None


@pytest.mark.parametrize(
    ("style", "text", "answers"),
    [
        ("lines", "How high is the blue point?", ("7",)),
        ("lines", "How far apart in height are the highest and the lowest point?", ("5",)),
        ("dots", "What colour is the lowest dot?", ("green",)),
        ("dots", "What is the total of all dots?", ("20",)),
        ("pie", "What is the size of the largest slice?", ("7",)),
        ("pie", "Which place has the black slice?", ("fourth", "last")),
        ("pie", "How large is the third slice?", ("2",)),
    ],
)
def test_answers_in_every_style(style: world.Style, text: str, answers: tuple[str, ...]) -> None:
    ask = world.understand(text)
    assert ask is not None
    solution = world.solve(replace(CHART, style=style), ask)
    assert solution is not None and solution.answers == answers
    assert world.solve(CHART, ask) is None  # no chart answers a question about marks it does not have


def test_a_completion_is_written_as_the_contract_says() -> None:
    solution = world.solve(CHART, world.Ask("sum", ("first", "second")))
    assert solution is not None
    assert solution.completion == (
        "<think>\nStep 1: The first bar is 4.\nStep 2: The second bar is 7.\nStep 3: 4 + 7 = 11.\n</think>\n"
        "<answer>11</answer>"
    )


@given(seeds, levels)
def test_a_misread_chart_differs_by_single_units(seed: int, level: int) -> None:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    assert world.misread(chart, 0.0, rng) == chart
    seen = world.misread(chart, 1.0, rng)
    assert sorted(seen.colours) == sorted(chart.colours) and seen.style == chart.style
    assert all(abs(a - b) <= 1 and 1 <= a <= chart.top for a, b in zip(seen.values, chart.values, strict=True))


def test_the_pool_has_no_held_out_chart_and_no_label(tmp_path: Path) -> None:
    paths = world.write_pool(tmp_path / "pool", 20, seed=3)
    again = world.write_pool(tmp_path / "again", 20, seed=3)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    held_out = {row["image"] for row in world.benchmark(200, seed=3)}
    assert not held_out & {path.read_bytes() for path in paths}
    with Image.open(paths[0]) as picture:
        assert picture.size == (drawing.SIZE, drawing.SIZE)
        assert not picture.info


@pytest.mark.parametrize("level", sorted(world.LEVELS))
def test_benchmark_rows(level: int) -> None:
    rows = world.benchmark(40, seed=1, levels=(level,))
    assert rows == world.benchmark(40, seed=1, levels=(level,)) != world.benchmark(40, seed=2, levels=(level,))
    assert len({row["id"] for row in rows}) == 40
    assert len({row["type"] for row in rows}) >= 5
    for row, (chart, question) in zip(rows, world.held_out_questions(40, 1, (level,)), strict=True):
        assert chart.held_out
        assert Image.open(io.BytesIO(row["image"])).tobytes() == world.render(chart).tobytes()
        assert row["question"] == question.text and row["answers"] == list(question.solution.answers)


def test_levels_take_turns(tmp_path: Path) -> None:
    assert [row["id"] for row in world.benchmark(4)] == ["level1-00000", "level2-00001", "level3-00002", "level1-00003"]
    charts = list(world.pool(5, seed=2, levels=(4, 2)))
    assert [chart.level for chart in charts] == [4, 2, 4, 2, 4]
    written = world.write_pool(tmp_path / "pool", 5, seed=2, levels=(4, 2))
    assert [path.read_bytes() for path in written] == [world.to_png(world.render(chart)) for chart in charts]


@pytest.mark.parametrize(
    ("level", "digest"),
    [(1, "ce8398553de620dd"), (2, "3f799c7d648f3375"), (3, "c630fe4c2670b6cd"), (4, "46361f8548b600eb")],
)
def test_the_charts_stay_what_the_checkpoint_was_trained_on(level: int, digest: str) -> None:
    charts = [(chart, question.text) for chart, question in world.held_out_questions(50, levels=(level,))]
    said = [(chart.values, chart.colours, world.render(chart).tobytes(), text) for chart, text in charts]
    assert hashlib.sha256(repr(said).encode()).hexdigest()[:16] == digest


@given(seeds, levels)
def test_proposals_say_nothing_but_the_question_and_why(seed: int, level: int) -> None:
    _, question = chart_and_question(seed, level)
    written = re.fullmatch(r"<question>(.+)</question>\n<rationale>(.+)</rationale>", world.proposal(question))
    assert written and written[1] == question.text
    assert "{" not in written[2]
