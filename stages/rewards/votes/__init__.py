"""What a rollout's answer counts when the dominant one is chosen, a file each: a function `weights` to one number a
rollout [R], float64, none negative, from what is known of the rollouts. To add one, add its file, and its name to
`ScoreParams.vote`.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np

from stages.rewards import choices
from stages.rewards.cast import Cast

Vote: TypeAlias = Callable[[Cast], np.ndarray]


def names() -> list[str]:
    return [name.replace("_", "-") for name in choices.names(__name__)]


def load(name: str) -> Vote:
    """The vote of that name, in which all rollouts of a group count the same where none of its answers counts anything.
    Raises UsageError, with the nearest, for one that is not there."""
    return partial(_or_count, choices.load(__name__, "vote", name.replace("-", "_")).weights)


def _or_count(weights: Vote, cast: Cast) -> np.ndarray:
    """Without this, answers that all weigh nothing would elect the one sampled first."""
    weight = weights(cast)
    answers = np.bincount(cast.group, np.where(cast.answered, weight, 0.0))
    return np.where(answers[cast.group] > 0, weight, 1.0)
