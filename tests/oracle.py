"""The rewards computed a second time: a plain reading of the formulas, one rollout at a time, sharing no code with
the stages."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Flags:
    reward: str = "mixed"
    no_decay: bool = False
    no_density: bool = False
    no_warmup: bool = False
    total_steps: int = 2500


@dataclass
class Rollout:
    key: str | None
    words: int
    steps: list[np.ndarray] = field(default_factory=list)  # mean token embeddings, not yet normalised


@dataclass
class Scores:
    r_answer: float
    r_step: float
    reward: float
    dominant: bool
    density: float
    similarity: list[float | None] | None


def lam(t: int, flags: Flags) -> float:
    if flags.reward == "answer":
        return 0.0
    if flags.no_warmup:
        return 0.7
    progress = t / flags.total_steps
    if progress <= 0.3:
        return 0.0
    return 0.7 if progress >= 1 else 0.7 * (progress - 0.3) / 0.7


def score_group(rollouts: list[Rollout], t: int, flags: Flags) -> tuple[list[Scores], float, float]:
    """Each rollout's scores, the group's entropy, the Proposer's reward."""
    n = len(rollouts)
    keys = [rollout.key for rollout in rollouts if rollout.key is not None]
    counts = Counter(keys)
    best = max(counts.values(), default=0)
    winner = next((key for key in keys if counts[key] == best), None)
    members = [rollout for rollout in rollouts if winner is not None and rollout.key == winner]
    rho = 1.0 if flags.no_density else (len(members) / n) ** 0.7
    prototypes: dict[int, np.ndarray] = {}
    for j in range(8):
        at = [member.steps[j] / np.linalg.norm(member.steps[j]) for member in members if len(member.steps) > j]
        if len(at) >= 2:
            mean = np.mean(at, axis=0)
            prototypes[j] = mean / np.linalg.norm(mean)
    scores = []
    for rollout in rollouts:
        length = min(max((rollout.words - 64) / 64, 0), 1)
        r_answer = 0.0 if rollout.key is None else (counts[rollout.key] / n) ** 0.7 * (1 - 0.05 * length)
        inside = winner is not None and rollout.key == winner
        similarity = None
        r_step = 0.0
        if inside:
            similarity = [
                float(step / np.linalg.norm(step) @ prototypes[j]) if j in prototypes else None
                for j, step in enumerate(rollout.steps)
            ]
            pairs = [
                (math.exp(-(0 if flags.no_decay else 0.15) * j), (1 + s) / 2)
                for j, s in enumerate(similarity)
                if s is not None
            ]
            if pairs:
                r_step = rho * sum(w * s for w, s in pairs) / sum(w for w, _ in pairs)
        weight = lam(t, flags)
        reward = r_step if flags.reward == "step" else (1 - weight) * r_answer + weight * r_step
        scores.append(Scores(r_answer, r_step, reward, inside, rho, similarity))
    outcomes = Counter(rollout.key for rollout in rollouts)
    entropy = -sum(c / n * math.log(c / n) for c in outcomes.values())
    proposer = math.exp(-((entropy - 0.9) ** 2) / (2 * 0.35**2)) if keys else 0.0
    return scores, entropy, proposer
