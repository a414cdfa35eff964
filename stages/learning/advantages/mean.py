"""REINFORCE with the group's own mean as its baseline."""

from collections.abc import Sequence


def advantages(rewards: Sequence[float], moving: float) -> list[float]:
    """A_i = r_i − mean(r)   [N], exactly 0 where all rewards are equal

    rewards [N]; moving is not used.
    """
    if min(rewards) == max(rewards):  # whose mean, rounded, may be another number
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]
