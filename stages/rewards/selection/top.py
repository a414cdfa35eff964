"""The best of each group's rollouts."""

import numpy as np


def top(reward: np.ndarray, group: np.ndarray, dominant: np.ndarray, count: int) -> np.ndarray:
    """The `count` members of each dominant group G with the highest reward, all where there are fewer   [R] bool

    reward [R], group [R] int, dominant [R] bool. Ties go to the rollout sampled first.
    """
    member = np.flatnonzero(dominant)
    best = member[np.lexsort((-reward[member], group[member]))]
    starts = np.searchsorted(group[best], group[best])
    chosen = np.zeros(len(group), dtype=bool)
    chosen[best[np.arange(len(best)) - starts < count]] = True
    return chosen
