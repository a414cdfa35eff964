"""How sure one can be of a figure, and of a difference, where each side is a run with each of several seeds.

Both the questions and the seeds are a few out of many: two crossed random effects, each with its share in the error.
Pure functions of arrays [S, n], of S ≥ 2 seeds and n questions.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stages.evaluation.statistics import (
    NOTHING,
    Difference,
    Estimate,
    clustered_variance,
    paired,
    share_interval,
    student,
)

Clusters = Sequence[object]  # of the n questions


def spread(tasks: Sequence[np.ndarray], clusters: Sequence[Clusters]) -> tuple[float, float, float]:
    """The mean over `tasks`, each [S, n_t] and weighing the same, its variance V, and the degrees of freedom of that.

    V = Σ_s (m_s − m)² / (S(S − 1)) + Σ_t V_t / T²: m_s is the mean of seed s, V_t the clustered variance over the
    questions of task t of their means over the seeds. What a seed does to single questions is in both terms, so that V
    is too large rather than too small. The degrees of freedom are Satterthwaite's, V² / Σ (term² / its own); 0 where
    nothing varies.
    """
    seeds = np.mean([values.mean(axis=1) for values in tasks], axis=0)
    terms = [(float(seeds.var(ddof=1)) / len(seeds), len(seeds) - 1)]
    for values, own in zip(tasks, clusters, strict=True):
        variance, count = clustered_variance(values.mean(axis=0), own)
        terms.append((variance / len(tasks) ** 2, count - 1))
    variance = sum(term for term, _ in terms)
    squares = sum(term**2 / freedom for term, freedom in terms if freedom)
    return float(seeds.mean()), variance, variance**2 / squares if variance > NOTHING else 0.0


def pooled_estimate(scores: np.ndarray, clusters: Clusters) -> Estimate:
    """The mean of `scores` [S, n] in [0, 1], with the interval that `estimate` has for a single run."""
    mean, variance, freedom = spread([scores], [clusters])
    count = len(set(clusters))
    if count < 2:
        return Estimate(scores.shape[1], count, mean, None, None, None)
    return Estimate(scores.shape[1], count, mean, math.sqrt(variance), *share_interval(mean, variance, freedom, count))


def pooled_difference(base: np.ndarray, other: np.ndarray, clusters: Clusters) -> Difference:
    """How `other` [S, n] differs from `base` [S, n] on the same questions, paired by question and seed. Where nothing
    varies, or all questions are one cluster, it is the difference of a single pair of runs."""
    found = t_test([other - base], [clusters])
    count = len(set(clusters))
    if found is None or count < 2:
        return replace(paired(base[0].tolist(), other[0].tolist(), clusters), detectable=None, needed=None)
    mean, low, high, p = found
    return Difference(base.shape[1], count, mean, low, high, p, "t over seeds and questions")


def t_test(changes: Sequence[np.ndarray], clusters: Sequence[Clusters]) -> tuple[float, float, float, float] | None:
    """The mean over tasks of differences [S, n_t] in [−1, 1], its 95 % interval, mean ± t · √V, and the two-sided p;
    None where nothing varies."""
    from scipy.special import stdtr  # as slow to import as all the rest

    mean, variance, freedom = spread(changes, clusters)
    if not freedom:
        return None
    error = math.sqrt(variance)
    half = student(freedom) * error
    return mean, max(-1.0, mean - half), min(1.0, mean + half), 2 * float(stdtr(freedom, -abs(mean) / error))
