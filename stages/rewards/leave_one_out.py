"""How near a step is to the same step of the others: agreement with oneself left out."""

import numpy as np


def leave_one_out(similarity: np.ndarray) -> np.ndarray:
    """cos(e_i, Σ_{k≠i} e_k) for the n ≥ 2 members of one group that have a position   [n]

    similarity [n]: c_i = cos(e_i, μ), the members' `step_similarity` at that position. μ is the normalised mean of
    unit vectors, so that with S = Σ e_k:  c_i = e_i·S/|S|  and  |S| = Σ c_i. The embeddings are not needed:
    e_i·(S − e_i) = c_i|S| − 1  and  |S − e_i|² = |S|² − 2c_i|S| + 1. Where the others cancel out there is no
    direction to agree with, and the result is 0, as it is for a step without tokens, whose embedding is 0 (c_i = 0);
    one at right angles to the prototype, to the last bit, is taken for such a step.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    total = similarity.sum()
    others = np.sqrt(np.maximum(total**2 - 2 * similarity * total + 1, 0.0))
    defined = (others > 1e-6) & (similarity != 0)
    cosine = np.divide(similarity * total - 1, others, out=np.zeros_like(similarity), where=defined)
    return np.clip(cosine, -1.0, 1.0)
