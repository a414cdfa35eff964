"""A rollout counts as much as the token that it was least sure of: one slip is enough for a wrong answer."""

import numpy as np

from stages.rewards.cast import Cast


def weights(cast: Cast) -> np.ndarray:
    """min over the tokens of π(token); 0 where none are stored   [R]"""
    return np.exp(np.where(np.isnan(cast.weakest), -np.inf, cast.weakest))
