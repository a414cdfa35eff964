"""A reward from its terms."""

from collections.abc import Mapping

import numpy as np


def weighted_sum(weights: Mapping[str, float], terms: Mapping[str, np.ndarray]) -> np.ndarray:
    """Σ w·term   [n]

    weights: one or more, as `expression` reads them; terms [n] each, by the same names.
    """
    return np.sum([weight * terms[name] for name, weight in weights.items()], axis=0)


def factor(term: np.ndarray, low: float, high: float) -> np.ndarray:
    """LO + (HI − LO)·r   [n], r in [0, 1]; 1 where a term r [n] says nothing (NaN)."""
    return np.where(np.isnan(term), 1.0, low + (high - low) * term)


def proposer_reward(terms: np.ndarray, share: np.ndarray, share_weight: float, valid: np.ndarray) -> np.ndarray:
    """max(0, t − W·share), t = Σ w·term; 0 for a proposal that is no valid question   [M]

    terms [M]: t; share [M]: `question_shares`; share_weight W; valid [M] bool.
    """
    return np.where(valid, np.maximum(terms - share_weight * share, 0.0), 0.0)
