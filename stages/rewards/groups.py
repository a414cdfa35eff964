"""What a term of the Proposer's reward sees."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Groups:
    """The questions, as their rollouts took them. entropy [M]: nats, NaN for a group without rollouts. share [M]: c,
    the dominant answer's share of all N rollouts. answered [M] bool: some rollout of the group has an answer."""

    entropy: np.ndarray
    share: np.ndarray
    answered: np.ndarray
