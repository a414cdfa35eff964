"""The usual advantage, spread over the steps by how much each is believed."""

import numpy as np

from stages.rewards.paths import Paths


def credit(paths: Paths) -> np.ndarray:
    """A · w / w̄,   w = p where A > 0 and 1 − p where A < 0,   p = exp(belief)   [E]

    w̄: the mean of w over the rollout's tokens, so that the sum over its tokens stays what it was, A times their
    number: more to trusted steps where the answer is good, more blame to doubted ones where it is not. What has no
    content token counts like the mean of the rollout's others; where nothing can be told apart, A for all.
    """
    advantage = paths.advantage()[paths.rollout]
    p = np.exp(np.minimum(paths.belief, 0.0))
    weight = np.where(advantage > 0, p, 1 - p)
    known = ~np.isnan(weight)
    weight = np.where(known, weight, _per_token(paths, np.where(known, weight, 0.0), known))
    mean = _per_token(paths, weight, np.ones(len(weight), bool))
    return advantage * np.divide(weight, mean, out=np.ones(len(weight)), where=mean > 0)


def _per_token(paths: Paths, weight: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of each part: the mean of `weight` over those tokens of its rollout whose part counts; 1 where none does   [E]"""
    rollouts = len(paths.group)
    tokens = np.where(counts, paths.tokens, 0)
    total = np.bincount(paths.rollout, weight * tokens, minlength=rollouts)
    number = np.bincount(paths.rollout, tokens, minlength=rollouts)
    return np.divide(total, number, out=np.ones(rollouts), where=number > 0)[paths.rollout]
