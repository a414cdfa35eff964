"""The statistics against their definitions, against each other, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.pooling import spread
from stages.evaluation.scores import Answered, accuracy, summary
from stages.evaluation.statistics import (
    ALPHA,
    difference_interval,
    estimate,
    holm,
    mcnemar,
    paired,
    sign_flip,
    student,
    wilson,
)


def simulate(rng: np.random.Generator, clusters: int, mean: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong answers: 1 to 6 questions a cluster, whose chances vary from cluster to cluster."""
    sizes = rng.integers(1, 7, clusters)
    chances = rng.beta(mean * spread, (1 - mean) * spread, clusters)
    owner = np.repeat(np.arange(clusters), sizes)
    return (rng.random(len(owner)) < chances[owner]).astype(float), owner


def test_without_clusters_the_error_is_the_usual_one() -> None:
    scores = [1.0, 0.0, 1.0, 1.0, 0.25, 0.0, 1.0]
    result = estimate(scores, range(7))
    assert result.mean == pytest.approx(np.mean(scores))
    assert result.stderr == pytest.approx(np.std(scores, ddof=1) / math.sqrt(7))


def test_copies_of_a_question_tell_nothing_new() -> None:
    scores = [1.0, 0.0, 1.0, 1.0, 0.0]
    once, tenfold = estimate(scores, range(5)), estimate(scores * 10, list(range(5)) * 10)
    assert tenfold.stderr == pytest.approx(once.stderr)
    assert tenfold.questions == 50 and tenfold.clusters == 5


@pytest.mark.parametrize(("mean", "spread"), [(0.5, 2.0), (0.85, 3.0), (0.95, 100.0)])
def test_the_interval_covers_the_mean_as_often_as_it_says(mean: float, spread: float) -> None:
    rng = np.random.default_rng(1)
    clustered = plain = 0
    for _ in range(1000):
        scores, owner = simulate(rng, 60, mean, spread)
        result = estimate(scores.tolist(), owner.tolist())
        assert result.low is not None and result.high is not None
        clustered += result.low <= mean <= result.high
        naive = estimate(scores.tolist(), range(len(scores)))
        assert naive.low is not None and naive.high is not None
        plain += naive.low <= mean <= naive.high
    assert 0.925 < clustered / 1000 < 0.98
    if spread < 10:  # clusters differ much: who ignores them is too sure
        assert plain / 1000 < 0.92


def test_all_right_is_not_certain() -> None:
    result = estimate([1.0] * 50, range(50))
    assert result.stderr == 0 and result.high == 1 and result.low == pytest.approx(wilson(1.0, 50)[0])
    assert 0.9 < wilson(1.0, 50)[0] < 0.95


def test_nothing_and_little_to_go_by() -> None:
    assert estimate([], []).mean is None
    assert estimate([1.0, 0.0], ["a", "a"]).stderr is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.integers(1, 8))
def test_the_interval_holds_the_mean_and_stays_in_range(scores: list[float], clusters: int) -> None:
    result = estimate(scores, [place % clusters for place in range(len(scores))])
    assert result.mean is not None
    if result.low is not None and result.high is not None:
        assert 0 <= result.low <= result.mean + 1e-9 and result.mean - 1e-9 <= result.high <= 1


@pytest.mark.parametrize("clusters", [5, 9, 60])
def test_with_few_clusters_it_still_does(clusters: int) -> None:
    """The normal quantile in place of Student's would hold the mean of five clusters in 90 of 100."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(500):
        scores, owner = simulate(rng, clusters, 0.5, 2.0)
        result = estimate(scores.tolist(), owner.tolist())
        assert result.low is not None and result.high is not None
        covered += result.low <= 0.5 <= result.high
    assert 0.925 < covered / 500 < 0.99


@pytest.mark.parametrize("samples", [1, 5, 40])
def test_the_interval_agrees_with_its_own_standard_error_however_many_samples(samples: int) -> None:
    rng = np.random.default_rng(3)
    scores = rng.binomial(samples, rng.beta(1, 1, 300)) / samples
    result = estimate(scores.tolist(), range(300))
    assert result.low is not None and result.high is not None and result.stderr is not None
    assert (result.high - result.low) / 2 == pytest.approx(student(299) * result.stderr, rel=0.02)


def test_students_quantiles_by_the_table() -> None:
    assert [student(freedom) for freedom in (1, 2, 8, 100)] == pytest.approx([12.706, 4.303, 2.306, 1.984], abs=5e-4)


def changes(rng: np.random.Generator, n: int, gained: float, lost: float) -> list[float]:
    return rng.choice([1.0, -1.0, 0.0], n, p=[gained, lost, 1 - gained - lost]).tolist()


@pytest.mark.parametrize("n", [5, 20, 100, 600])
@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.02), (0.2, 0.1), (0.5, 0.05)])
def test_the_interval_of_a_difference_covers_it_as_often_as_it_says(n: int, gained: float, lost: float) -> None:
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(300):
        low, high = difference_interval(changes(rng, n, gained, lost), range(n))
        covered += low <= gained - lost <= high
    assert covered / 300 > 0.92


def test_the_interval_of_a_difference_is_the_clustered_error_where_there_is_much_to_go_by() -> None:
    rng = np.random.default_rng(3)
    base, owner = simulate(rng, 400, 0.6, 2.0)
    other, _ = simulate(np.random.default_rng(4), 800, 0.6, 2.0)
    differences = other[: len(base)] - base
    low, high = difference_interval(differences.tolist(), owner.tolist())
    shifted = estimate(((differences + 1) / 2).tolist(), owner.tolist())
    assert shifted.stderr is not None
    assert (high - low) / 2 == pytest.approx(1.966 * 2 * shifted.stderr, rel=0.02)
    assert (high + low) / 2 == pytest.approx(differences.mean(), abs=0.002)


@pytest.mark.parametrize("n", [2, 3, 5, 20, 1000])
@pytest.mark.parametrize("changed", [0, 1, -1])
def test_where_nothing_varied_the_interval_is_no_point(n: int, changed: int) -> None:
    base = [float(changed < 0)] * n
    result = paired(base, [score + changed for score in base], range(n))
    assert result.high - result.low > 1 / n
    assert result.low <= result.mean == changed <= result.high
    if not changed:
        assert result.high == -result.low == pytest.approx(wilson(0.0, n)[1])


SCORES = st.sampled_from([0.0, 1.0, 0.2, 0.5])


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=40), st.integers(1, 40), st.booleans())
def test_interval_and_p_never_contradict_each_other(
    pairs: list[tuple[float, float]], clusters: int, binary: bool
) -> None:
    base, other = ([float(round(score)) if binary else score for score in side] for side in zip(*pairs, strict=True))
    result = paired(base, other, [place % clusters for place in range(len(pairs))])
    assert -1 <= result.low <= result.mean + 1e-9 and result.mean - 1e-9 <= result.high <= 1
    assert (result.low <= 0 <= result.high) == (result.p >= ALPHA)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=30), st.integers(1, 12))
def test_changing_places_turns_the_difference_round(pairs: list[tuple[float, float]], clusters: int) -> None:
    base, other = zip(*pairs, strict=True)
    owner = [place % clusters for place in range(len(pairs))]
    one, turned = paired(base, other, owner), paired(other, base, owner)
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-one.mean, -one.high, -one.low))


def test_as_many_questions_as_needed_show_the_difference_four_times_in_five() -> None:
    rng = np.random.default_rng(7)
    pilot = changes(rng, 500, 0.15, 0.15)
    found = paired([max(-change, 0.0) for change in pilot], [max(change, 0.0) for change in pilot], range(500))
    assert found.detectable is not None
    assert found.needed == pytest.approx(500 * (found.detectable / 0.01) ** 2, abs=1)
    shown = 0
    for _ in range(300):
        real = changes(rng, 500, 0.15 + found.detectable / 2, 0.15 - found.detectable / 2)
        shown += mcnemar(real.count(1.0), real.count(-1.0)) < ALPHA
    assert 0.7 < shown / 300 < 0.88


def test_more_questions_show_smaller_differences() -> None:
    alike = [paired([0.0] * n, [0.0] * n, range(n)).detectable or 0.0 for n in (10, 100, 1000)]
    assert alike == sorted(alike, reverse=True) and alike[-1] < 0.02


@pytest.mark.parametrize("binary", [True, False])
def test_equal_runs_are_found_different_no_more_often_than_one_in_twenty(binary: bool) -> None:
    rng = np.random.default_rng(4)
    found = 0
    for trial in range(400):
        chances = rng.random(80)
        base, other = ((rng.random(80) < chances).astype(float) for _ in range(2))
        owner = range(80) if binary else [place // 3 for place in range(80)]
        if not binary:  # the runs agree within a picture more than across
            other = np.where(np.repeat(rng.random(27), 3)[:80] < 0.5, base, 1 - base)
        found += paired(base.tolist(), other.tolist(), owner, seed=trial).p < 0.05
    assert found / 400 < 0.075


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(5)
    base = (rng.random(600) < 0.6).astype(float)
    other = np.maximum(base, rng.random(600) < 0.15)
    result = paired(base.tolist(), other.tolist(), range(600))
    assert result.test == "exact McNemar" and result.p < 1e-6 and 0 < result.low < result.mean < result.high


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 9, 2 * 11 / 1024), (3, 3, 1.0)])
def test_mcnemar_by_hand(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_of_thousands_does_not_overflow() -> None:
    assert mcnemar(5000, 5000) == pytest.approx(1.0)
    assert 0 < mcnemar(5300, 5000) < 0.01


def test_the_permutation_test_is_mcnemar_where_both_apply() -> None:
    assert sign_flip(np.array([1.0] * 9 + [-1.0] + [0.0] * 30), seed=0) == pytest.approx(mcnemar(1, 9))
    many = np.array([1.0] * 60 + [-1.0] * 40)
    assert sign_flip(many, seed=0) == pytest.approx(mcnemar(60, 40), abs=0.01)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == [] and holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [a for _, a in ranked] == sorted(a for _, a in ranked)


# ----------------------------------------------------------------------------------------------- over tasks and samples


def asked(scores: list[float], predictions: list[str], truncated: int = 0, reason: str | None = None) -> Answered:
    return Answered("1", "", "c", None, None, ("3",), reason, scores, [*predictions], truncated)


def test_figures_of_graded_samples() -> None:
    figures = summary(
        [
            asked([0.5, 0.75, 0.0], ["a", "b", "a"], truncated=2),
            asked([0.0, 0.0, 0.0], ["a", "b", "c"]),
            asked([], [], reason="left out: no image"),
            asked([], [], reason="gone.png: no such file"),
        ]
    )
    assert figures["pass@k"]["mean"] == 0.375 and figures["majority@k"]["mean"] == 0.25
    assert (figures["unscored"], figures["left_out"], figures["truncated"]) == (1, 1, 2 / 6)


def test_tasks_of_any_size_weigh_the_same() -> None:
    assert spread([np.ones((2, 10)), np.zeros((2, 90))], [range(10), range(90)])[0] == 0.5
    figures = {"tasks": {"a": {"accuracy": 0.2}, "b": {"accuracy": None}, "c": {"accuracy": 0.6}}}
    assert accuracy(figures) == pytest.approx(0.4)


def test_the_variance_of_a_mean_over_tasks_is_a_square_of_their_number_smaller() -> None:
    """Of seeds that are all alike, so that it is the questions' alone."""
    own = np.tile(np.random.default_rng(0).normal(size=(1, 40)), (3, 1))
    one, two = (spread([each], [range(40)])[1] for each in (own, 2 * own))
    assert spread([own, 2 * own], [range(40)] * 2)[1] == pytest.approx((one + two) / 4)


def test_drawn_signs_count_the_one_observed() -> None:
    assert sign_flip(np.ones(40), 0) == pytest.approx(1 / 10001)
