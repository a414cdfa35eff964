"""A rollout counts as much as it was likely to be sampled."""

import numpy as np

from stages.rewards.cast import Cast


def weights(cast: Cast) -> np.ndarray:
    """min(1, π(y) / max π(y')) over the group's answers, π(y) = exp(logprob); 0 where none are stored   [R]

    Only ratios within a group matter, and π(y) itself is too small for a number. What does not answer counts no more
    than the likeliest answer: beside a short refusal all answers would be 0.
    """
    group, logprob = cast.group, cast.logprob
    largest = np.full(group.max(initial=-1) + 1, -np.inf)
    np.fmax.at(largest, group[cast.answered], logprob[cast.answered])
    known = np.isfinite(logprob) & np.isfinite(largest[group])
    ratio = np.subtract(logprob, largest[group], out=np.full(len(group), -np.inf), where=known)
    return np.exp(np.minimum(ratio, 0.0))
