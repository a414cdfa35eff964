"""The terms of the Solver's reward, a file each: a function `term` from the rollouts of a block of whole groups to one
number a rollout [R], float64. To add one, add its file.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from stages.rewards import choices
from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams

Term: TypeAlias = Callable[[Rollouts, "ScoreParams"], np.ndarray]


def names() -> list[str]:
    return choices.names(__name__)


def load(name: str) -> Term:
    """The term of that name. Raises UsageError, with the nearest, for one that is not there."""
    return choices.load(__name__, "term", name).term
