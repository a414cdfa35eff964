"""Whether questions of some kinds crowd out the others."""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np


def balances(kinds: Sequence[str | None], known: Collection[str]) -> np.ndarray:
    """max(0, (n/K − n_k)/max(n/K, 1))   [M]: n_k of the n questions that are of any of the K `known` kinds are of this
    one's; 0 for a question of none. kinds [M]."""
    counts = Counter(kind for kind in kinds if kind in known)
    even = counts.total() / max(len(known), 1)
    return np.array([max(0.0, even - counts[kind]) / max(even, 1.0) if kind in counts else 0.0 for kind in kinds])
