"""How sure one can be of a benchmark figure, and of the difference between two runs on the same questions.

Questions about one picture are not independent: everywhere the unit that counts is the cluster, following Miller,
"Adding Error Bars to Evals" (arXiv 2411.00640). Pure functions of arrays; whatever draws at random takes a seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

ALPHA = 0.05
NORMAL = NormalDist()
Z = NORMAL.inv_cdf(1 - ALPHA / 2)
POWER = 0.8
Z_POWER = NORMAL.inv_cdf(POWER)
ONE_POINT = 0.01
RESAMPLES = 10_000
NOTHING = 1e-15  # a variance that rounding alone can make


@dataclass(frozen=True)
class Estimate:
    """A mean over `questions` questions in `clusters` clusters; `low` and `high` bound its 95 % interval. The
    standard error is None with fewer than two clusters, everything without questions."""

    questions: int
    clusters: int
    mean: float | None
    stderr: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, its 95 % interval [low, high], and a two-sided p value by `test`; the interval
    holds zero where p ≥ 0.05 and nowhere else.

    `detectable` is the smallest true difference that as many questions show about four times in five, (z_{0.975} +
    z_{0.8}) half-widths of the interval over z_{0.975}; `needed` is how many would so show a difference of one point.
    Both are of a single pair of runs, and None where runs from several seeds are pooled.
    """

    questions: int
    clusters: int
    mean: float
    low: float
    high: float
    p: float
    test: str
    detectable: float | None = None
    needed: int | None = None


def estimate(scores: Sequence[float], clusters: Sequence[object]) -> Estimate:
    """The mean of `scores` [n] in [0, 1], with an error that allows for `clusters` [n].

    The variance is Σ_g (Σ_{i∈g} (x_i − x̄))² / n² · G/(G−1). The interval is Wilson's, with the number of independent
    questions that would give this variance in place of n, and Student's t of G − 1 degrees of freedom in place of the
    normal quantile: it stays inside [0, 1], and does not vanish where all answers are right.
    """
    n = len(scores)
    if not n:
        return Estimate(0, 0, None, None, None, None)
    mean, (variance, count) = float(np.mean(scores)), clustered_variance(scores, clusters)
    if count < 2:
        return Estimate(n, count, mean, None, None, None)
    return Estimate(n, count, mean, math.sqrt(variance), *share_interval(mean, variance, count - 1, count))


def clustered_variance(values: Sequence[float] | np.ndarray, clusters: Sequence[object]) -> tuple[float, int]:
    """The variance of the mean of `values` [n], as above, and how many clusters there are; 0 with fewer than two."""
    sums, sizes = cluster_sums(values, clusters)
    count, n = len(sums), len(values)
    residuals = sums - sizes * (sums.sum() / n)
    return (float(residuals @ residuals) / n**2 * count / (count - 1) if count > 1 else 0.0), count


def share_interval(mean: float, variance: float, freedom: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share with that variance of so many degrees of freedom. Without any spread, as where
    all are right, the `count` clusters are all that is known to be independent."""
    if variance <= NOTHING:
        return wilson(mean, count)
    return wilson(mean, mean * (1 - mean) / variance, student(freedom))


def wilson(mean: float, n: float, quantile: float = Z) -> tuple[float, float]:
    """Wilson's 95 % interval for a share `mean` of `n` independent trials (need not be whole)."""
    square = quantile * quantile / n
    centre = (mean + square / 2) / (1 + square)
    half = math.sqrt(max(0.0, mean * (1 - mean)) * square + square * square / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


@lru_cache(maxsize=1024)
def student(freedom: float) -> float:
    """The quantile of Student's t beyond which, on either side, lie 5 %; the degrees of freedom need not be whole."""
    from scipy.special import stdtrit  # as slow to import as all the rest

    return float(stdtrit(freedom, 1 - ALPHA / 2))


def cluster_sums(values: Sequence[float] | np.ndarray, clusters: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values of each cluster, and how many they are: float64 [G] both."""
    place: dict[object, int] = {}
    index = [place.setdefault(cluster, len(place)) for cluster in clusters]
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
    return sums, np.bincount(index).astype(np.float64)


def paired(base: Sequence[float], other: Sequence[float], clusters: Sequence[object], seed: int = 0) -> Difference:
    """How `other` [n] differs from `base` [n] on the same questions, n ≥ 1.

    The test is McNemar's, exact, where every score is 0 or 1 and every question its own cluster; otherwise the
    differences of whole clusters change sign at random, as they would if it did not matter which run is which.
    """
    differences = np.asarray(other, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    sums, _ = cluster_sums(differences.tolist(), clusters)
    binary = all(score in (0.0, 1.0) for score in (*base, *other))
    if binary and len(sums) == n:
        p, test = mcnemar(int((differences > 0).sum()), int((differences < 0).sum())), "exact McNemar"
    else:
        p, test = sign_flip(sums, seed), "paired permutation"
    low, high = difference_interval(differences.tolist(), clusters)
    detectable = (high - low) / (2 * Z) * (Z + Z_POWER)
    needed = math.ceil(n * (detectable / ONE_POINT) ** 2)
    return Difference(n, len(sums), mean, *_agreeing(mean, low, high, p), p, test, detectable, needed)


def difference_interval(differences: Sequence[float], clusters: Sequence[object]) -> tuple[float, float]:
    """The 95 % interval of the mean of `differences` [n] in [−1, 1], by squaring and adding (MOVER, Zou & Donner 2008)
    the intervals of the mean gain and the mean loss. One cluster says nothing: all of [−1, 1].

    Where no score differs, what could have been gained and lost unseen still counts: it is no point.
    """
    parts = [[max(sign * difference, 0.0) for difference in differences] for sign in (1.0, -1.0)]
    gain, loss = (estimate(part, clusters) for part in parts)
    if gain.low is None or gain.high is None or loss.low is None or loss.high is None:
        return -1.0, 1.0
    assert gain.mean is not None and loss.mean is not None
    correlation = _correlation(*(cluster_sums(part, clusters) for part in parts))
    below = _together(gain.mean - gain.low, loss.high - loss.mean, correlation)
    above = _together(gain.high - gain.mean, loss.mean - loss.low, correlation)
    mean = gain.mean - loss.mean
    return max(-1.0, mean - below), min(1.0, mean + above)


def _correlation(*parts: tuple[np.ndarray, np.ndarray]) -> float:
    """Of two means over the same clusters; 0 where one does not vary."""
    first, second = (sums - sizes * (sums.sum() / sizes.sum()) for sums, sizes in parts)
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale > NOTHING else 0.0


def _together(one: float, other: float, correlation: float) -> float:
    """The distance of a limit of a difference from it, of the distances of its parts' limits from them."""
    return math.sqrt(max(0.0, one * one + other * other - 2 * correlation * one * other))


def _agreeing(mean: float, low: float, high: float, p: float) -> tuple[float, float]:
    """The interval, with its end towards zero where the test says it is if the two disagree on whether zero is inside:
    test-based limits (Miettinen 1976), mean · (1 − z / z_p), lie beyond zero exactly where p ≥ 0.05."""
    if (low <= 0 <= high) == (p >= ALPHA):
        return low, high
    end = mean * (1 - Z / max(1e-9, -NORMAL.inv_cdf(max(p, 1e-300) / 2)))
    return (max(-1.0, end), high) if mean > 0 else (low, min(1.0, end))


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact p value of McNemar's test: `gained` and `lost` questions as heads and tails of a coin."""
    from scipy.special import bdtr  # as slow to import as all the rest

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def sign_flip(sums: np.ndarray, seed: int) -> float:
    """The two-sided p value of |Σ sums| when each cluster's sign is a coin: exact up to 12 clusters that differ,
    otherwise of RESAMPLES draws, counting the one observed."""
    moved = sums[sums != 0]
    observed = abs(moved.sum()) - 1e-9
    if len(moved) <= 12:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= observed).mean())
    # Clusters of one size of difference are drawn together: their signs' sum is binomial.
    sizes, counts = np.unique(np.abs(moved), return_counts=True)
    heads = np.random.default_rng(seed).binomial(counts, 0.5, size=(RESAMPLES, len(counts)))
    extreme = int((np.abs((2 * heads - counts) @ sizes) >= observed).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for there being several (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
