"""How well the rollouts of a group agree on the answer."""

from dataclasses import dataclass

import numpy as np

NO_ANSWER = -1


@dataclass(frozen=True)
class Consensus:
    """prob [R]: p(a|x,q), 0 without an answer. dominant [R]: in the dominant-answer group G. entropy [M]: nats,
    NaN for a group without rollouts. size [M]: N. dominant_size [M]: |G|."""

    prob: np.ndarray
    dominant: np.ndarray
    entropy: np.ndarray
    size: np.ndarray
    dominant_size: np.ndarray


def consensus(group: np.ndarray, key: np.ndarray, groups: int) -> Consensus:
    """Shares, dominant answer and entropy of every group.

    group [R] int in [0, groups); key [R] int, equal within a group exactly where the canonical answers are
    equal, NO_ANSWER where there is none. Rollouts are in the order they were sampled. Ties for the dominant
    answer go to the one sampled first; all rollouts without an answer are one more outcome of the entropy.
    """
    size = np.bincount(group, minlength=groups)
    outcomes, first, inverse, count = np.unique(
        np.stack([group, key], axis=1), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    outcome_group, answered = outcomes[:, 0], outcomes[:, 1] != NO_ANSWER
    share = count / size[outcome_group]

    entropy = np.where(size > 0, 0.0, np.nan)
    np.add.at(entropy, outcome_group, -share * np.log(share))

    # Sorted so that each group's winner comes last: answered, then most frequent, then sampled earliest.
    order = np.lexsort((-first, count, answered, outcome_group))
    winner = np.full(groups, -1)
    winner[outcome_group[order]] = order
    wins = np.zeros(len(outcomes), dtype=bool)
    wins[winner[winner >= 0]] = True
    wins &= answered
    dominant = wins[inverse]
    return Consensus(
        prob=np.where(key != NO_ANSWER, share[inverse], 0.0),
        dominant=dominant,
        entropy=np.abs(entropy),  # a unanimous group is 0, never -0
        size=size,
        dominant_size=np.bincount(group[dominant], minlength=groups),
    )
