"""The weakest step, against those of the others that agree on the answer."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.leave_one_out import leave_one_out
from stages.rewards.rollouts import Rollouts
from stages.rewards.step import compared_steps

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = min_j (1 + cos(e_ij, Σ_{k≠i} e_kj))/2 over the steps that have a prototype; 0 without one   [R]"""
    step, prototype = compared_steps(rollouts.rollout, rollouts.position, rollouts.group, rollouts.dominant)
    weakest = np.full(len(rollouts.group), np.inf)
    for members in np.split(step, np.flatnonzero(np.diff(prototype)) + 1):
        agreement = (1 + leave_one_out(rollouts.similarity[members])) / 2
        np.minimum.at(weakest, rollouts.rollout[members], agreement)
    return np.where(np.isfinite(weakest), weakest, 0.0)
