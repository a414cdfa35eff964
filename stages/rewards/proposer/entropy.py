"""Questions of middling difficulty, by the entropy of their answers."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.groups import Groups

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(groups: Groups, constants: "ScoreParams") -> np.ndarray:
    """r = exp(−(H − m)²/(2s²)); 0 where nothing was parsed   [M]

    m entropy_target; s entropy_width, nats.
    """
    deviation = np.nan_to_num(groups.entropy) - constants.entropy_target
    bell = np.exp(-(deviation**2) / (2 * constants.entropy_width**2))
    return np.where(groups.answered, bell, 0.0)
