"""What an estimator of credit sees: each rollout as a path of parts, its steps and then its answer."""

from dataclasses import dataclass

import numpy as np

ANSWER_PLACE = -1  # the place of the part that holds the answer


@dataclass(frozen=True)
class Paths:
    """The rollouts of a block of whole groups that are learned from.

    Of each rollout: group [R] int. reward [R] float, finite.

    Of each part, a rollout's together and in order, the answer last: rollout [E] int, in [0, R). place [E] int: the
    step's number from 0, ANSWER_PLACE of the answer. like [E] int from 0: equal, within a group and a place, exactly
    where the steps (or the answers) are alike. tokens [E] int: how many there are. belief [E]: log-probability of the
    weakest content token, nats, NaN where there is none.
    """

    group: np.ndarray
    reward: np.ndarray
    rollout: np.ndarray
    place: np.ndarray
    like: np.ndarray
    tokens: np.ndarray
    belief: np.ndarray

    def advantage(self) -> np.ndarray:
        """A = reward − the group's mean reward   [R]"""
        return self.reward - means(self.group, self.reward)


def means(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The mean of the values that have the same number, of each   [n]

    group [n] int from 0; value [n] float.
    """
    count = np.bincount(group)
    return (np.bincount(group, value) / np.maximum(count, 1))[group]


def numbered(*keys: np.ndarray) -> np.ndarray:
    """A number for each row of keys [n], the same for the same row: 0, 1, …   [n] int"""
    rows = np.stack(keys, axis=1) if len(keys[0]) else np.zeros((0, len(keys)), np.int64)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
