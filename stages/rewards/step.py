"""The step reward: agreement of each reasoning step with its prototype among the rollouts that agree.

    r_step = ρ · Σ_j w_j (1 + cos(e_ij, μ_j))/2 / Σ_j w_j,  w_j = exp(−δ·j),  ρ = (|G|/N)^γ

e_ij embeds step j of rollout i; μ_j is the normalised mean of the unit embeddings at position j over the dominant
group G. A position counts when at least two members of G have it, and the sums run over the positions that count and
i has. 0 outside G, for |G| < 2, and when no position counts.

In three parts, so that only the steps that are compared need be embedded, and not all at a time.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class StepReward:
    """density [M]: ρ. reward [R]: r_step."""

    density: np.ndarray
    reward: np.ndarray


def compared_steps(
    rollout: np.ndarray, position: np.ndarray, group: np.ndarray, dominant: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The steps that have a prototype, as indices [K], prototype by prototype, and the number of each one's prototype
    [K]: 0, 0, 0, 1, 1, …

    rollout, position [S] of each step; group, dominant [R] of each rollout.
    """
    member = np.flatnonzero(dominant[rollout])
    order = np.lexsort((position[member], group[rollout[member]]))
    member = member[order]
    place = np.stack([group[rollout[member]], position[member]])
    is_first = np.ones(len(member), dtype=bool)
    is_first[1:] = (place[:, 1:] != place[:, :-1]).any(axis=0)
    number = np.cumsum(is_first) - 1
    counts = np.bincount(number, minlength=1)[number] >= 2
    return member[counts], np.cumsum(is_first[counts]) - 1


def step_similarity(embedding: np.ndarray, prototype: np.ndarray) -> np.ndarray:
    """cos(e, μ) [K], float64, of steps with each their prototype.

    embedding [K, d], of any length other than zero, each counting the same; prototype [K]: 0, 0, 0, 1, 1, …
    """
    norms = _norms(embedding)
    starts = np.flatnonzero(np.diff(prototype, prepend=-1))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0).astype(embedding.dtype)
    mean = sparse.csr_array(
        (inverse, np.arange(len(embedding)), np.append(starts, len(embedding))), shape=(len(starts), len(embedding))
    )
    prototypes = mean @ embedding
    lengths = norms * _norms(prototypes)[prototype]
    dots = np.einsum("kd,kd->k", embedding, prototypes[prototype])
    cosine = np.divide(dots, lengths, out=np.zeros(len(dots)), where=lengths > 0)
    return np.clip(cosine, -1.0, 1.0)


def _norms(vectors: np.ndarray) -> np.ndarray:
    """[n], float64, of [n, d]."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors).astype(np.float64))


def step_reward(
    similarity: np.ndarray,
    rollout: np.ndarray,
    position: np.ndarray,
    group: np.ndarray,
    size: np.ndarray,
    dominant_size: np.ndarray,
    decay: float = 0.15,
    density_exponent: float = 0.7,
) -> StepReward:
    """r_step of every rollout and ρ of every group.

    similarity [S], NaN where a step has no prototype; rollout, position [S]; group [R]; size, dominant_size [M]: N and
    |G|; decay δ (0 for none); density_exponent γ (0 for ρ = 1).
    """
    scored = np.flatnonzero(~np.isnan(similarity))
    weight = np.exp(-decay * position[scored])
    total = np.bincount(rollout[scored], weight * (1 + similarity[scored]) / 2, minlength=len(group))
    norm = np.bincount(rollout[scored], weight, minlength=len(group))
    mean = np.divide(total, norm, out=np.zeros(len(group)), where=norm > 0)
    rho = density(size, dominant_size, density_exponent)
    return StepReward(rho, rho[group] * mean)


def density(size: np.ndarray, dominant_size: np.ndarray, exponent: float = 0.7) -> np.ndarray:
    """ρ = (|G|/N)^γ   [M]

    size, dominant_size [M]: N and |G|; exponent γ (0 for ρ = 1).
    """
    return (dominant_size / np.maximum(size, 1)) ** exponent
