"""What a vote sees of the rollouts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cast:
    """Of each rollout: group [R] int from 0, equal where they vote on one thing. answered [R] bool. logprob and weakest
    [R]: the sum and the least of the stored log-probabilities, nats, NaN where there are none. self_reward [R]: r_s,
    NaN of a completion that was cut off, and where it was not asked for."""

    group: np.ndarray
    answered: np.ndarray
    logprob: np.ndarray
    weakest: np.ndarray
    self_reward: np.ndarray
