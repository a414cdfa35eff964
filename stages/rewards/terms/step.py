"""Agreement of the reasoning, step by step, among the rollouts that agree on the answer."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.rollouts import Rollouts
from stages.rewards.step import step_reward

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = ρ · Σ_j w_j (1 + cos(e_ij, μ_j))/2 / Σ_j w_j, w_j = exp(−δ·j), ρ = (|G|/N)^γ; 0 outside G   [R]

    δ decay, 0 with no_decay; γ density_exponent, 0 with no_density.
    """
    return step_reward(
        rollouts.similarity,
        rollouts.rollout,
        rollouts.position,
        rollouts.group,
        rollouts.size,
        rollouts.dominant_size,
        decay=0.0 if constants.no_decay else constants.decay,
        density_exponent=0.0 if constants.no_density else constants.density_exponent,
    ).reward
