"""The groups whose agreement lies in a band: neither too hard nor too easy."""

import numpy as np

TOLERANCE = 1e-9  # a share that is the limit but for rounding is the limit


def keep(vote: np.ndarray, low: float, high: float) -> np.ndarray:
    """low ≤ v ≤ high   [M] bool

    vote [M]: v, the dominant answer's share of the vote.
    """
    return (vote >= low - TOLERANCE) & (vote <= high + TOLERANCE)
