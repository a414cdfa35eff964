"""How well scores tell what is true from what is false, and how sure one can be of it.

Rollouts of one group are not independent: intervals are of groups drawn with replacement. `resamples` [B, G] says how
often each of the G groups is drawn in each of B resamples, always the same ones, so that two scores of the same
rollouts can be compared draw by draw.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DECIMALS = 6  # to which scores are ties: the same words in another order are added up in another order


@dataclass(frozen=True)
class Separation:
    """An estimate, what it would be in each resample [B], and how many things, or pairs of them, it is of."""

    estimate: float
    draws: np.ndarray
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %; NaN where there is nothing to estimate from."""
        if np.isnan(self.estimate):
            return np.nan, np.nan
        low, high = np.nanpercentile(self.draws, [2.5, 97.5])
        return float(low), float(high)

    def __sub__(self, other: "Separation") -> "Separation":
        """The difference, of two scores of the same things."""
        return Separation(self.estimate - other.estimate, self.draws - other.draws, self.count)


def resampled(groups: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """[B, G] float64 for `count` = B resamples; groups: the numbers, below G, of those that there are."""
    present = np.unique(groups)
    draws = np.zeros((count, int(present.max()) + 1))
    draws[:, present] = np.random.default_rng(seed).multinomial(
        len(present), np.full(len(present), 1 / len(present)), count
    )
    return draws


def area(score: np.ndarray, truth: np.ndarray, group: np.ndarray, resamples: np.ndarray) -> Separation:
    """The area under the ROC curve, over all groups: how often something true has a higher score than something
    false, ties counting half. score, truth, group [n]; what has no score, or no truth, is NaN and left out."""
    known = ~np.isnan(score) & ~np.isnan(truth)
    score, truth, group = score[known].round(DECIMALS), truth[known], group[known]
    if not 0 < truth.sum() < len(truth):
        return Separation(np.nan, np.full(len(resamples), np.nan), len(truth))
    values, rank = np.unique(score, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(len(values)))
    drawn = np.concatenate([np.ones((1, resamples.shape[1])), resamples])[:, group[order]]
    true = np.add.reduceat(drawn * truth[order], starts, axis=1)
    false = np.add.reduceat(drawn * (1 - truth[order]), starts, axis=1)
    below = np.cumsum(false, axis=1) - false / 2
    with np.errstate(invalid="ignore"):
        areas = (true * below).sum(1) / (true.sum(1) * false.sum(1))
    return Separation(float(areas[0]), areas[1:], len(truth))


def pairs(
    score: np.ndarray, truth: np.ndarray, place: np.ndarray, group: np.ndarray, resamples: np.ndarray
) -> tuple[Separation, Separation]:
    """Of all pairs of something true and something false in one place: how often the true one has the higher score,
    ties counting half; and by how much, on average. score, truth, place, group [n]: a place lies in one
    group."""
    score = score.round(DECIMALS)
    won, gap, count = np.zeros((3, resamples.shape[1]))
    for own in _places(score, truth, place):
        true, false = score[own][truth[own] == 1, None], score[own][truth[own] == 0]
        won[group[own[0]]] += (true > false).sum() + (true == false).sum() / 2
        gap[group[own[0]]] += (true - false).sum()
        count[group[own[0]]] += true.size * false.size
    total = int(count.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = resamples @ count
        return (
            Separation(float(won.sum() / count.sum()), resamples @ won / drawn, total),
            Separation(float(gap.sum() / count.sum()), resamples @ gap / drawn, total),
        )


def _places(score: np.ndarray, truth: np.ndarray, place: np.ndarray) -> Iterator[np.ndarray]:
    known = np.flatnonzero(~np.isnan(score) & ~np.isnan(truth))
    order = known[np.argsort(place[known], kind="stable")]
    yield from np.split(order, np.flatnonzero(np.diff(place[order])) + 1) if len(order) else ()
