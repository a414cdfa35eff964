"""REINFORCE with a moving-average baseline."""

from collections.abc import Sequence


def advantages(rewards: Sequence[float], moving: float) -> list[float]:
    """A_i = r_i − b   [N]

    rewards [N]; moving b. The one rule by which a group that agrees in full is learned from.
    """
    return [reward - moving for reward in rewards]
