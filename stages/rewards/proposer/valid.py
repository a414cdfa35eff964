"""Questions that the picture answers, as rows say that were asked."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.groups import Groups

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(groups: Groups, constants: "ScoreParams") -> np.ndarray:
    """r = mean (v − LO)/(HI − LO) of the numbers v that the rows of a pass about the question give; 0 without any
    [M]"""
    return np.nan_to_num(groups.valid)
