"""Which rows are better than which, a file a rule: a function `pairs` from the rows of one group to pairs of the
preferred one and the other. To add one, add its file.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from stages.rewards import choices

# Of the rows of each pass that the rule names, the share of the first pass's rows that answer alike [R], and the rows'
# seeds [R].
Rule: TypeAlias = Callable[[Sequence[np.ndarray], np.ndarray, np.ndarray], Iterable[tuple[int, int]]]


def load(name: str) -> Rule:
    """The rule of that name. Raises UsageError, with the nearest, for one that is not there."""
    return choices.load(__name__, "rule of --pairs", name).pairs
