"""A step is worth how much of the group makes it, against what else is said there."""

import numpy as np

from stages.rewards.paths import Paths, means, numbered


def credit(paths: Paths) -> np.ndarray:
    """v − the mean of v at the place,   v = the share of the group's rollouts with a like step at the same place   [E]

    The answer counts as one more step, at a place of its own. Where all say the same there is nothing to learn: 0. The
    rewards do not enter.
    """
    group = paths.group[paths.rollout]
    same = numbered(group, paths.place, paths.like)
    share = np.bincount(same)[same] / np.bincount(paths.group)[group]
    return share - means(numbered(group, paths.place), share)
