"""The Proposer's reward: questions of middling difficulty."""

import numpy as np


def proposer_reward(entropy: np.ndarray, answered: np.ndarray, target: float = 0.90, width: float = 0.35) -> np.ndarray:
    """exp(−(H − m)²/(2s²)), H = entropy [M] (nats), m target, s width; 0 where no rollout of the group was
    parsed (answered [M] false)."""
    bell = np.exp(-((np.nan_to_num(entropy) - target) ** 2) / (2 * width**2))
    return np.where(answered, bell, 0.0)
