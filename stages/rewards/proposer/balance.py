"""Questions of kinds that are rare."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.groups import Groups

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(groups: Groups, constants: "ScoreParams") -> np.ndarray:
    """r = max(0, (n/K − n_k)/max(n/K, 1)), n_k of the shard's n questions being of its kind k, one of K; 0 for none
    [M]"""
    return np.nan_to_num(groups.balance)
