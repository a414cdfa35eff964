"""Questions of middling difficulty, by the share of their dominant answer."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.groups import Groups

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(groups: Groups, constants: "ScoreParams") -> np.ndarray:
    """r = 1 − |2c − 1|; 0 where nothing was parsed   [M]"""
    return np.where(groups.answered, 1 - np.abs(2 * groups.share - 1), 0.0)
