"""The checker agrees with every true solution, catches every corrupted step, and survives any text."""

import random
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ireasoner_cli.demo import checker, drawing, world

seeds = st.integers(0, 2**32)
levels = st.sampled_from(sorted(world.LEVELS))
CHART = world.Chart((4, 7, 2, 7), ("red", "blue", "green", "black"))
PIE = replace(CHART, style="pie")


@given(seeds, levels)
def test_every_step_of_a_true_solution_is_true(seed: int, level: int) -> None:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    solution = world.draw_question(rng, chart).solution
    assert checker.find_steps(solution.completion) == list(solution.steps)
    assert checker.check_completion(solution.completion, chart) == [True] * len(solution.steps)


@given(seeds, levels, st.integers(1, 5))
def test_a_changed_number_makes_a_step_false(seed: int, level: int, change: int) -> None:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    for step in world.draw_question(rng, chart).solution.steps:
        corrupted = re.sub(r"\d+(?=\.$)", lambda match: str(int(match[0]) + change), step)
        assert checker.check_step(corrupted, chart) is (corrupted == step)


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        ("The red bar is 4.", True),
        ("the RED bar is 4", True),
        ("The red bar is 5.", False),
        ("The last bar is black.", True),
        ("The first bar is blue.", False),
        ("The green bar is the third bar.", True),
        ("The green bar is the first bar.", False),
        ("The tallest bar is 7.", True),
        ("The tallest bar is the fourth bar.", True),
        ("The shortest bar is red.", False),
        ("The yellow bar is 4.", False),  # there is none
        ("4 + 7 + 2 = 13.", True),
        ("4 + 7 = 12.", False),
        ("2 - 7 = -5.", True),
        ("The bars look nice.", None),
        ("4 + 7", None),
        ("", None),
    ],
)
def test_verdicts(step: str, verdict: bool | None) -> None:
    assert checker.check_step(step, CHART) is verdict


@given(seeds, levels)
def test_a_changed_colour_makes_a_step_false(seed: int, level: int) -> None:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    ask = world.Ask("colours", style=chart.style)
    solution = world.solve(chart, ask)
    assert solution is not None
    for step, colour in zip(solution.steps, chart.colours, strict=True):
        assert checker.check_step(step, chart) is True
        for other in set(drawing.COLOURS) - {colour}:
            assert checker.check_step(step.replace(colour, other), chart) is False


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        ("The red slice is 4.", True),
        ("The second slice is 6.", False),
        ("The largest slice is 7.", True),
        ("The smallest slice is the third slice.", True),
        ("The smallest slice is the last slice.", False),
        ("The red bar is 4.", False),  # there is no bar
        ("The tallest slice is 7.", None),
        ("The red slice is the first bar.", None),
        ("4 + 7 = 11.", True),
    ],
)
def test_verdicts_on_a_pie(step: str, verdict: bool | None) -> None:
    assert checker.check_step(step, PIE) is verdict


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    checker.check_step(text, CHART)
    verdicts = checker.check_completion(f"<think>\nStep 1: {text}\n</think>", CHART)
    assert len(verdicts) <= 64


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 50_000,
        "<think>\nStep 1: " + "1 + " * 100_000,
        "<think>\nStep 1: 9" + "9" * 100_000 + " = 1.",
        "<think>" + "\nStep 1: The red bar is 4." * 50_000,
        "<think>\nStep 1: ٣ + ٤ = ٧.\x00\x1b[31m</think>",
    ],
)
def test_hostile_text_is_cheap(text: str) -> None:
    started = time.perf_counter()
    assert len(checker.check_completion(text, CHART)) <= 64
    assert time.perf_counter() - started < 1.0
