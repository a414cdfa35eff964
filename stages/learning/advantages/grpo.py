"""Group-relative advantages (GRPO, arXiv 2402.03300): centred and scaled within the group."""

import math
from collections.abc import Sequence

from stages.learning.advantages import mean

EPSILON = 1e-6


def advantages(rewards: Sequence[float], moving: float) -> list[float]:
    """A_i = (r_i − mean(r)) / (std(r) + 1e-6)   [N], exactly 0 where all rewards are equal, as in a group of one

    rewards [N]; std with N − 1; moving is not used.
    """
    centred = mean.advantages(rewards, moving)
    if not any(centred):
        return centred
    std = math.sqrt(sum(difference**2 for difference in centred) / (len(centred) - 1))
    return [difference / (std + EPSILON) for difference in centred]
