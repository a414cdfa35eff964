"""Self-consistency, shortened by a length penalty."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = p(a)^α · (1 − η·ℓ), ℓ = clip((words − W)/W, 0, 1); 0 without an answer   [R]

    α answer_exponent; η length_penalty; W length_limit.
    """
    limit = constants.length_limit
    excess = np.clip((rollouts.words - limit) / limit, 0.0, 1.0)
    kept = 1 - constants.length_penalty * excess
    return np.where(rollouts.prob > 0, rollouts.prob**constants.answer_exponent * kept, 0.0)
