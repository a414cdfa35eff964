"""Short among the rollouts that agree on the answer."""

from typing import TYPE_CHECKING

import numpy as np

from stages.rewards.rollouts import Rollouts

if TYPE_CHECKING:
    from stages.parameters.score import ScoreParams


def term(rollouts: Rollouts, constants: "ScoreParams") -> np.ndarray:
    """r = L_min/L, L tokens, L_min the fewest in G; 0 outside G, for |G| < 2, and where no tokens are recorded   [R]"""
    member = np.flatnonzero(rollouts.dominant & (rollouts.tokens > 0))
    group, tokens = rollouts.group[member], rollouts.tokens[member]
    shortest = np.full(len(rollouts.size), np.inf)
    np.minimum.at(shortest, group, tokens)
    compared = np.bincount(group, minlength=len(rollouts.size)) >= 2
    reward = np.zeros(len(rollouts.group))
    reward[member] = np.where(compared[group], shortest[group] / tokens, 0.0)
    return reward
