"""What a term of the Proposer's reward sees."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Groups:
    """The questions, as their rollouts took them. entropy [M]: nats, NaN for a group without rollouts. share [M]: c,
    the dominant answer's share of all N rollouts. answered [M] bool: some rollout of the group has an answer. valid
    [M]: the mean verdict on the question, NaN without one. novelty, balance [M]: of the question among those of the
    whole shard, NaN where nobody asks."""

    entropy: np.ndarray
    share: np.ndarray
    answered: np.ndarray
    valid: np.ndarray
    novelty: np.ndarray
    balance: np.ndarray
