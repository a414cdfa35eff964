"""A step is worth what it changed: the rollouts of a group as a tree over their steps, like ones being one node."""

import numpy as np

from stages.rewards.paths import Paths, means, numbered


def credit(paths: Paths) -> np.ndarray:
    """V(after) − V(before),   V = the mean reward of the rollouts through a node   [E]

    V(root) is the group's mean and V(leaf) that of those that say the same to the end, so that the sum over a path is
    its advantage, shared with its like; what all have in common gets nothing.
    """
    after = np.zeros(len(paths.rollout))
    before = np.zeros(len(paths.rollout))
    node = numbered(paths.group)  # of each rollout, as far as the paths are walked
    value = means(node, paths.reward)
    starts = np.flatnonzero(np.diff(paths.rollout, prepend=-1))
    length = np.diff(np.append(starts, len(paths.rollout)))
    for depth in range(int(length.max(initial=0))):
        on = np.flatnonzero(length > depth)  # every rollout has a part at least: its answer
        part = starts[on] + depth
        before[part] = value[on]
        place, like = np.full((2, len(node)), -2)
        place[on], like[on] = paths.place[part], paths.like[part]
        node = numbered(node, place, like)
        value = means(node, paths.reward)
        after[part] = value[on]
    return after - before
