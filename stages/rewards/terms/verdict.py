"""What verifiers say of the row."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.made import mean_of_made
from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = mean (v − LO)/(HI − LO) of the numbers v that verifiers of the row give; NaN where none gives one   [R]"""
    return mean_of_made(rollouts, "verdict", rollouts.verdict)
