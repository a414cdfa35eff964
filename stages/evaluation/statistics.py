"""How sure one can be of a benchmark figure, and of the difference between two runs on the same questions.

Questions about one picture are not independent: everywhere the unit that counts is the cluster, following Miller,
"Adding Error Bars to Evals" (arXiv 2411.00640). Pure functions of arrays; whatever draws at random takes a seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
RESAMPLES = 10_000


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
    """The mean of paired differences, its 95 % bootstrap interval [low, high], and a two-sided p value by `test`."""

    questions: int
    clusters: int
    mean: float
    low: float
    high: float
    p: float
    test: str


def estimate(scores: Sequence[float], clusters: Sequence[object]) -> Estimate:
    """The mean of `scores` [n] in [0, 1], with an error that allows for `clusters` [n].

    The variance is Σ_g (Σ_{i∈g} (x_i − x̄))² / n² · G/(G−1). The interval is Wilson's, with the number of independent
    questions that would give this variance in place of n: it stays inside [0, 1], and does not vanish where all
    answers are right.
    """
    n = len(scores)
    if not n:
        return Estimate(0, 0, None, None, None, None)
    sums, sizes = cluster_sums(scores, clusters)
    count, mean = len(sums), float(sums.sum() / n)
    if count < 2:
        return Estimate(n, count, mean, None, None, None)
    residuals = sums - sizes * mean
    variance = float(residuals @ residuals) / n**2 * count / (count - 1)
    # Without any spread, as where all are right, the clusters are all that is known to be independent.
    effective = min(mean * (1 - mean) / variance, n) if variance > 1e-15 else count
    low, high = wilson(mean, effective)
    return Estimate(n, count, mean, math.sqrt(variance), low, high)


def wilson(mean: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval for a share `mean` of `n` independent trials (need not be whole)."""
    centre = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(max(0.0, mean * (1 - mean)) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def cluster_sums(values: Sequence[float], clusters: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
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
    sums, sizes = cluster_sums(differences.tolist(), clusters)
    low, high = bootstrap(sums, sizes, seed)
    binary = all(score in (0.0, 1.0) for score in (*base, *other))
    if binary and len(sums) == len(differences):
        p, test = mcnemar(int((differences > 0).sum()), int((differences < 0).sum())), "exact McNemar"
    else:
        p, test = sign_flip(sums, seed), "paired permutation"
    return Difference(len(differences), len(sums), float(differences.mean()), low, high, p, test)


def resampled_means(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """The mean in RESAMPLES bootstrap samples [RESAMPLES], each of as many clusters as there are.

    Clusters alike in sum and size are drawn together, as one category of a multinomial: the same, and quick.
    """
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), counts / len(sums), size=RESAMPLES)
    return (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])


def bootstrap(sums: np.ndarray, sizes: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile interval of Σ sums / Σ sizes, clusters resampled. One cluster says nothing: all of [−1, 1]."""
    if len(sums) < 2:
        return -1.0, 1.0
    return percentile_interval(resampled_means(sums, sizes, seed))


def percentile_interval(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact p value of McNemar's test: `gained` and `lost` questions as heads and tails of a coin."""
    n, fewer = gained + lost, min(gained, lost)
    tail = sum(math.exp(_log_binomial(n, k) - n * math.log(2)) for k in range(fewer + 1))
    return min(1.0, 2 * tail)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


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
