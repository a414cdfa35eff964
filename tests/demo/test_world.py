"""The world is deterministic, its solutions are right, and its questions can be read back."""

import io
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ireasoner_cli.demo import world

seeds = st.integers(0, 2**32)
levels = st.sampled_from(sorted(world.LEVELS))


def chart_and_question(seed: int, level: int = 1) -> tuple[world.Chart, world.Question]:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    return chart, world.draw_question(rng, chart)


@given(seeds, levels)
def test_a_seed_gives_the_same_chart_question_and_picture(seed: int, level: int) -> None:
    chart, question = chart_and_question(seed, level)
    assert (chart, question) == chart_and_question(seed, level)
    assert world.to_png(world.render(chart)) == world.to_png(world.render(chart))


@given(seeds, levels)
def test_charts_keep_to_their_level(seed: int, level: int) -> None:
    chart, _ = chart_and_question(seed, level)
    fewest, most = world.LEVELS[level].bars
    assert fewest <= len(chart.values) <= most
    assert all(1 <= value <= world.LEVELS[level].top for value in chart.values)
    assert len(set(chart.colours)) == len(chart.colours) == len(chart.values)


@given(seeds, levels)
def test_a_bar_is_as_tall_as_its_value_says(seed: int, level: int) -> None:
    chart, _ = chart_and_question(seed, level)
    picture = world.render(chart)
    ink = [picture.getcolors(world.SIZE**2)]
    area = {colour: count for count, colour in ink[0] or []}
    widths = {area[world.COLOURS[c]] / v for c, v in zip(chart.colours, chart.values, strict=True)}
    # Equal widths up to a pixel of rounding: the coloured area is in proportion to the height.
    assert max(widths) <= min(widths) * 1.2


@given(seeds, levels)
def test_questions_read_back_as_what_they_ask(seed: int, level: int) -> None:
    _, question = chart_and_question(seed, level)
    assert world.understand(question.text) == question.ask


@pytest.mark.parametrize("text", ["", "Why?", "How tall is the pink bar?", "How tall is the red bar? Yes."])
def test_other_questions_are_not_understood(text: str) -> None:
    assert world.understand(text) is None


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


def test_a_completion_is_written_as_the_contract_says() -> None:
    solution = world.solve(CHART, world.Ask("sum", ("first", "second")))
    assert solution is not None
    assert solution.completion == (
        "<think>\nStep 1: The first bar is 4.\nStep 2: The second bar is 7.\nStep 3: 4 + 7 = 11.\n</think>\n"
        "<answer>11</answer>"
    )


@given(seeds)
def test_a_misread_chart_differs_by_single_units(seed: int) -> None:
    rng = random.Random(seed)
    chart = world.draw_chart(rng)
    assert world.misread(chart, 0.0, rng) == chart
    seen = world.misread(chart, 1.0, rng)
    assert sorted(seen.colours) == sorted(chart.colours)
    assert all(abs(a - b) <= 1 and 1 <= a <= 9 for a, b in zip(seen.values, chart.values, strict=True))


def test_the_pool_has_no_held_out_chart_and_no_label(tmp_path) -> None:
    paths = world.write_pool(tmp_path / "pool", 20, seed=3)
    again = world.write_pool(tmp_path / "again", 20, seed=3)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    held_out = {row["image"] for row in world.benchmark(200, seed=3)}
    assert not held_out & {path.read_bytes() for path in paths}
    with Image.open(paths[0]) as picture:
        assert picture.size == (world.SIZE, world.SIZE)
        assert not picture.info


def test_benchmark_rows() -> None:
    rows = world.benchmark(40, seed=1)
    assert rows == world.benchmark(40, seed=1) != world.benchmark(40, seed=2)
    assert len({row["id"] for row in rows}) == 40
    assert len({row["type"] for row in rows}) >= 5
    for row, (chart, question) in zip(rows, world.held_out_questions(40, seed=1), strict=True):
        assert chart.held_out
        assert Image.open(io.BytesIO(row["image"])).tobytes() == world.render(chart).tobytes()
        assert row["question"] == question.text and row["answers"] == list(question.solution.answers)


@given(seeds)
def test_proposals_say_nothing_but_the_question_and_why(seed: int) -> None:
    _, question = chart_and_question(seed)
    written = re.fullmatch(r"<question>(.+)</question>\n<rationale>(.+)</rationale>", world.proposal(question))
    assert written and written[1] == question.text
