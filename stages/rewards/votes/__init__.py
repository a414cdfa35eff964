"""What a rollout's answer counts when the dominant one is chosen, a file each: a function `weights` to one number a
rollout [R], float64, none negative. To add one, add its file.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from stages.rewards import choices

# Of group and logprob [R], as in Rollouts, and of the last-token self-reward [R], NaN where there is none.
Vote: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def names() -> list[str]:
    return [name.replace("_", "-") for name in choices.names(__name__)]


def load(name: str) -> Vote:
    """The vote of that name. Raises UsageError, with the nearest, for one that is not there."""
    return choices.load(__name__, "vote", name.replace("-", "_")).weights
