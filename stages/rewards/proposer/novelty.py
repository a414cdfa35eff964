"""Questions unlike those before."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.groups import Groups

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(groups: Groups, constants: "ScoreParams") -> np.ndarray:
    """r = 1 − the highest ROUGE-L with a question of an earlier group of the shard   [M]"""
    return np.nan_to_num(groups.novelty)
