"""What is made of the row comes out right."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.made import hits, mean_of_made
from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = the share of the rows made of this one whose answer is its target; 0 without any   [R]"""
    return np.nan_to_num(mean_of_made(rollouts, "children", hits(rollouts, "children")))
