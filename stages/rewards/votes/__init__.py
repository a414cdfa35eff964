"""What a rollout's answer counts when the dominant one is chosen, a file each: a function `weights` to one number a
rollout [R], float64, none negative, from what is known of the rollouts. To add one, add its file, and its name to
`ScoreParams.vote`.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from stages.rewards import choices
from stages.rewards.cast import Cast

Vote: TypeAlias = Callable[[Cast], np.ndarray]


def names() -> list[str]:
    return [name.replace("_", "-") for name in choices.names(__name__)]


def load(name: str) -> Vote:
    """The vote of that name. Raises UsageError, with the nearest, for one that is not there."""
    return choices.load(__name__, "vote", name.replace("-", "_")).weights
