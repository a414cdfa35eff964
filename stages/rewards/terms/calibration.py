"""The row knows how sure it can be."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = 1 − (v − 1[a = target])², Brier's score, v the row's own verdict on itself in [0, 1]; 0 without one   [R]"""
    return np.nan_to_num(1 - (rollouts.verdict - rollouts.hit) ** 2)
