"""A reader who is told only what the row says of the picture comes to the right answer."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.made import contains, hits, mean_of_made
from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = 1[a' = target], a' the reader's answer, of several readers the mean; 0 without a reader, and where what the
    reader was told is nothing, or holds the row's own answer or the reader's   [R]"""
    hit = hits(rollouts, "reader")
    for child in np.flatnonzero(hit == 1):
        told = rollouts.told[child]
        answers = (rollouts.answers[child], rollouts.answers[rollouts.parents["reader"][child]])
        hit[child] = bool(told) and not any(contains(told, answer) for answer in answers)
    return np.nan_to_num(mean_of_made(rollouts, "reader", hit))
