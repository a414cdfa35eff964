"""Questions about a picture whose answers are known without a label, a kind a file: a function `draw` from random draws
to a puzzle. To add one, add its file.
"""

import random
from collections.abc import Callable
from typing import TypeAlias

from stages.errors import UsageError
from stages.puzzles.puzzle import Puzzle
from stages.rewards import choices

Draw: TypeAlias = Callable[[random.Random], Puzzle]


def names() -> list[str]:
    return [name.replace("_", "-") for name in choices.names(__name__) if name != "puzzle"]


def load(name: str) -> Draw:
    """The kind of that name. Raises UsageError, with the nearest, for one that is not there."""
    if name not in names():
        raise UsageError(choices.unknown("task", name, names()))
    return choices.load(__name__, "task", name.replace("-", "_")).draw
