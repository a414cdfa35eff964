"""The terms of the Proposer's reward, a file each: a function `term` from the groups of a block to one number a
group [M], float64. To add one, add its file.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from stages.rewards import choices
from stages.rewards.groups import Groups

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams

Term: TypeAlias = Callable[[Groups, "ScoreParams"], np.ndarray]


def names() -> list[str]:
    return choices.names(__name__)


def load(name: str) -> Term:
    """The term of that name. Raises UsageError, with the nearest, for one that is not there."""
    return choices.load(__name__, "proposer term", name).term
