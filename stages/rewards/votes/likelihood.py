"""A rollout counts as much as it was likely to be sampled."""

import numpy as np


def weights(group: np.ndarray, logprob: np.ndarray, self_reward: np.ndarray) -> np.ndarray:
    """π(y) / max π(y') over the group's rollouts, π(y) = exp(logprob); 0 where none are stored   [R]

    group [R] int; logprob [R]: summed over the tokens, NaN where none are stored. Only ratios within a group matter,
    and π(y) itself is too small for a number. self_reward is not used.
    """
    largest = np.full(group.max(initial=-1) + 1, -np.inf)
    np.fmax.at(largest, group, logprob)
    return np.exp(np.subtract(logprob, largest[group], out=np.full(len(group), -np.inf), where=np.isfinite(logprob)))
