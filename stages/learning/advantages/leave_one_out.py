"""REINFORCE leave-one-out (RLOO, arXiv 2402.14740): the others' mean as each trajectory's baseline."""

from collections.abc import Sequence

from stages.learning.advantages import mean


def advantages(rewards: Sequence[float], moving: float) -> list[float]:
    """A_i = r_i − mean of the others = N/(N − 1) · (r_i − mean(r))   [N]

    Exactly 0 where all rewards are equal, as in a group of one. rewards [N]; moving is not used.
    """
    centred = mean.advantages(rewards, moving)
    return [len(centred) * difference / (len(centred) - 1) for difference in centred] if any(centred) else centred
