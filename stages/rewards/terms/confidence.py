"""How sure of its tokens the model was."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = exp(log π(y)/L), the geometric mean of the tokens' probabilities; 0 where none are stored   [R]"""
    stored = (rollouts.tokens > 0) & ~np.isnan(rollouts.logprob)
    mean = np.divide(rollouts.logprob, rollouts.tokens, out=np.full(len(stored), -np.inf), where=stored)
    return np.exp(mean)
