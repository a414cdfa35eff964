"""How well the rollouts of a group agree on the answer."""

from dataclasses import dataclass

import numpy as np

NO_ANSWER = -1


@dataclass(frozen=True)
class Consensus:
    """prob [R]: p(a|x,q), 0 without an answer. dominant [R]: in the dominant-answer group G. entropy [M]: nats,
    NaN for a group without rollouts. size [M]: N. dominant_size [M]: |G|. vote [M]: the share of G in the weight of all
    N, the unanswered among them; 0 where there is no answer, and where nothing has any weight."""

    prob: np.ndarray
    dominant: np.ndarray
    entropy: np.ndarray
    size: np.ndarray
    dominant_size: np.ndarray
    vote: np.ndarray


def consensus(group: np.ndarray, key: np.ndarray, groups: int, weight: np.ndarray | None = None) -> Consensus:
    """Shares, dominant answer and entropy of every group.

    group [R] int in [0, groups); key [R] int from 0, equal within a group exactly where the canonical answers are
    equal, NO_ANSWER where there is none; weight [R] ≥ 0: what each answer counts in the choice of the dominant one, 1
    by default (prob and entropy are of counts, whatever the weights). Rollouts are in the order they were sampled. Ties
    for the dominant answer go to the one sampled first; all rollouts without an answer are one more outcome of the
    entropy.
    """
    weight = np.ones(len(group)) if weight is None else weight
    size = np.bincount(group, minlength=groups)
    keys = key.max(initial=NO_ANSWER) - NO_ANSWER + 1
    outcomes, first, inverse, count = np.unique(
        group * keys + (key - NO_ANSWER), return_index=True, return_inverse=True, return_counts=True
    )
    outcome_group, answered = outcomes // keys, outcomes % keys != 0
    share = count / size[outcome_group]

    entropy = np.where(size > 0, 0.0, np.nan)
    np.add.at(entropy, outcome_group, -share * np.log(share))

    # Sorted so that each group's winner comes last: answered, then heaviest, then sampled earliest.
    order = np.lexsort((-first, np.bincount(inverse, weight), answered, outcome_group))
    winner = np.full(groups, -1)
    winner[outcome_group[order]] = order
    wins = np.zeros(len(outcomes), dtype=bool)
    wins[winner[winner >= 0]] = True
    wins &= answered
    dominant = wins[inverse]
    whole = np.bincount(group, weight, minlength=groups)
    chosen = np.bincount(group[dominant], weight[dominant], minlength=groups)
    return Consensus(
        prob=np.where(key != NO_ANSWER, share[inverse], 0.0),
        dominant=dominant,
        entropy=np.abs(entropy),  # a unanimous group is 0, never -0
        size=size,
        dominant_size=np.bincount(group[dominant], minlength=groups),
        vote=np.divide(chosen, whole, out=np.zeros(groups), where=whole > 0),
    )
