"""A rollout counts as much as it was likely to be sampled."""

import numpy as np

from stages.rewards.cast import Cast


def weights(cast: Cast) -> np.ndarray:
    """π(y) / max π(y') over the group's rollouts, π(y) = exp(logprob); 0 where none are stored   [R]

    Only ratios within a group matter, and π(y) itself is too small for a number.
    """
    group, logprob = cast.group, cast.logprob
    largest = np.full(group.max(initial=-1) + 1, -np.inf)
    np.fmax.at(largest, group, logprob)
    return np.exp(np.subtract(logprob, largest[group], out=np.full(len(group), -np.inf), where=np.isfinite(logprob)))
