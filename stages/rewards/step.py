"""The step reward: agreement of each reasoning step with its prototype among the rollouts that agree."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StepReward:
    """similarity [S]: cosine of each step to its prototype, NaN outside the dominant group and where the
    position does not count. density [M]: ρ. reward [R]: r_step."""

    similarity: np.ndarray
    density: np.ndarray
    reward: np.ndarray


def step_reward(
    embedding: np.ndarray,
    rollout: np.ndarray,
    position: np.ndarray,
    group: np.ndarray,
    dominant: np.ndarray,
    size: np.ndarray,
    dominant_size: np.ndarray,
    decay: float = 0.15,
    density_exponent: float = 0.7,
) -> StepReward:
    """r_step = ρ · Σ_j w_j (1 + cos(e_ij, μ_j))/2 / Σ_j w_j,  w_j = exp(−δ·j),  ρ = (|G|/N)^γ

    embedding [S, d]: unit step embeddings e; rollout, position [S]; group, dominant [R]; size, dominant_size [M]:
    N and |G|; decay δ (0 for none); density_exponent γ (0 for ρ = 1). μ_j is the normalised mean of the
    embeddings at position j over G; a position counts when at least two members of G have it, and the sums run
    over the positions that count and i has. 0 outside G, for |G| < 2, and when no position counts.
    """
    density = (dominant_size / np.maximum(size, 1)) ** density_exponent
    member = np.flatnonzero(dominant[rollout])
    slots, slot, count = np.unique(
        np.stack([group[rollout[member]], position[member]], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    slot = slot.reshape(-1)
    prototype = np.zeros((len(slots), embedding.shape[1]))
    np.add.at(prototype, slot, embedding[member])
    prototype = unit(prototype)

    counts = count[slot] >= 2
    scored, slot = member[counts], slot[counts]
    similarity = np.full(len(embedding), np.nan)
    cosine = np.einsum("sd,sd->s", embedding[scored], prototype[slot], dtype=np.float64)
    similarity[scored] = np.clip(cosine, -1.0, 1.0)

    weight = np.exp(-decay * position[scored])
    total, norm = np.zeros(len(group)), np.zeros(len(group))
    np.add.at(total, rollout[scored], weight * (1 + similarity[scored]) / 2)
    np.add.at(norm, rollout[scored], weight)
    mean = np.divide(total, norm, out=np.zeros(len(group)), where=norm > 0)
    return StepReward(similarity, density, density[group] * mean)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their norm, in float64; a zero row stays zero."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
