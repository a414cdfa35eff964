"""The figures of `tests.evidence.separation`, against counting by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evidence.separation import Separation, area, pairs, resampled

THINGS = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.3, np.nan]), st.sampled_from([0.0, 1.0, np.nan]), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


def won(true: float, false: float) -> float:
    return 1.0 if true > false else 0.5 if true == false else 0.0


@given(THINGS)
def test_areas_and_pairs_equal_counting(things: list[tuple[float, float, int]]) -> None:
    score, truth, group = (np.array(values) for values in zip(*things, strict=True))
    resamples = resampled(group, 20)
    everywhere = [
        (a, b) for a, b in product(things, things) if a[1] == 1 and b[1] == 0 and a[0] == a[0] and b[0] == b[0]
    ]
    inside = [(a, b) for a, b in everywhere if a[2] == b[2]]
    ordered, gap = pairs(score, truth, group, group, resamples)
    for found, wanted in (
        (area(score, truth, group, resamples).estimate, [won(a[0], b[0]) for a, b in everywhere]),
        (ordered.estimate, [won(a[0], b[0]) for a, b in inside]),
        (gap.estimate, [a[0] - b[0] for a, b in inside]),
    ):
        assert found == pytest.approx(np.mean(wanted) if wanted else np.nan, nan_ok=True)
    assert ordered.count == len(inside)


def test_a_resample_counts_each_group_as_often_as_it_is_drawn() -> None:
    score, truth, group = np.array([3.0, 1.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 1, 1])
    resamples = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert area(score, truth, group, resamples).draws.tolist() == [0.625, 1.0, 0.0]
    assert pairs(score, truth, group, group, resamples)[0].draws.tolist() == [0.5, 1.0, 0.0]


def test_intervals_of_differences_come_draw_by_draw() -> None:
    draws = np.linspace(0, 1, 1001)
    one, other = Separation(0.5, draws, 9), Separation(0.4, draws - 0.1, 9)
    assert one.interval == pytest.approx((0.025, 0.975))
    assert (one - other).interval == pytest.approx((0.1, 0.1))
