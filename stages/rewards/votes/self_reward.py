"""A rollout counts as much as the policy trusts its own answer (LaSeR, arXiv 2510.14943)."""

import numpy as np


def weights(group: np.ndarray, logprob: np.ndarray, self_reward: np.ndarray) -> np.ndarray:
    """max(r_s, 0); 0 where there is none   [R]

    self_reward [R]: r_s, NaN of a completion that was cut off; group and logprob are not used.
    """
    return np.fmax(self_reward, 0.0)
