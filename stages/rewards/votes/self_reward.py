"""A rollout counts as much as the policy trusts its own answer (LaSeR, arXiv 2510.14943)."""

import numpy as np

from stages.rewards.cast import Cast


def weights(cast: Cast) -> np.ndarray:
    """max(r_s, 0); 0 where there is none   [R]"""
    return np.fmax(cast.self_reward, 0.0)
