"""How the agreement of a step is shown, on the terminal and in the report alike."""

import math

# Cosines of mean token embeddings crowd below 1: what tells steps apart is the distance from 1, on a log scale.
CLOSEST, FARTHEST = 1e-3, 0.3


def divergence(similarity: float) -> float:
    """0 where a step says what the others say (1 − cos ≤ 0.001), 1 where it goes its own way (1 − cos ≥ 0.3)."""
    distance = max(1 - similarity, CLOSEST)
    return min(math.log(distance / CLOSEST) / math.log(FARTHEST / CLOSEST), 1.0)
