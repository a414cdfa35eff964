"""How the credit for an answer is shared out among the steps that led to it, an estimator a file: a function `credit`
from the paths of a block of whole groups to one number a part [E], float64, each token of the part's advantage. To add
one, add its file, and its name to `ScoreParams.credit`.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from stages.rewards import choices
from stages.rewards.paths import Paths

Credit: TypeAlias = Callable[[Paths], np.ndarray]


def names() -> list[str]:
    return choices.names(__name__)


def load(name: str) -> Credit:
    """The estimator of that name. Raises UsageError, with the nearest, for one that is not there."""
    return choices.load(__name__, "credit", name).credit
