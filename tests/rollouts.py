"""What the terms see of groups that are written down plainly."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stages.rewards.cast import Cast
from stages.rewards.consensus import NO_ANSWER, consensus
from stages.rewards.groups import Groups
from stages.rewards.rollouts import Rollouts
from stages.rewards.step import compared_steps, step_similarity
from tests import oracle


def answers(keys: Sequence[str | None], words: Sequence[int] | None = None) -> list[oracle.Rollout]:
    """A group of rollouts with these answers, and no reasoning."""
    return [oracle.Rollout(key, count) for key, count in zip(keys, words or [0] * len(keys), strict=True)]


def agreeing(cosines: Sequence[float]) -> list[oracle.Rollout]:
    """Two rollouts that agree on the answer, and whose steps have these cosines to one another."""
    other = [np.array([cosine, np.sqrt(1 - cosine**2)]) for cosine in cosines]
    return [oracle.Rollout("a", 0, [np.array([1.0, 0.0])] * len(cosines)), oracle.Rollout("a", 0, other)]


def rollouts(*groups: Sequence[oracle.Rollout], **given: Any) -> Rollouts:
    """These groups, with whatever else is `given`: no tokens, log-probabilities and texts, where it is not."""
    members = [rollout for group in groups for rollout in group]
    group = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    names = sorted({rollout.key for rollout in members if rollout.key is not None})
    key = np.array([NO_ANSWER if rollout.key is None else names.index(rollout.key) for rollout in members], dtype=int)
    agreement = consensus(group, key, len(groups))
    steps = [(place, j, step) for place, rollout in enumerate(members) for j, step in enumerate(rollout.steps)]
    rollout, position = (np.array([step[part] for step in steps], dtype=int) for part in (0, 1))
    similarity = np.full(len(steps), np.nan)
    compared, prototype = compared_steps(rollout, position, group, agreement.dominant)
    if len(compared):
        similarity[compared] = step_similarity(np.array([steps[step][2] for step in compared]), prototype)
    seen = Rollouts(
        group=group,
        hit=agreement.dominant,
        prob=agreement.prob,
        dominant=agreement.dominant,
        words=np.array([rollout.words for rollout in members], dtype=int),
        tokens=np.zeros(len(members), dtype=int),
        logprob=np.full(len(members), np.nan),
        texts=[""] * len(members),
        size=agreement.size,
        dominant_size=agreement.dominant_size,
        rollout=rollout,
        position=position,
        similarity=similarity,
        key=key,
        right=np.full(len(members), NO_ANSWER),
        answers=[rollout.key for rollout in members],
        verdict=np.full(len(members), np.nan),
        told=[""] * len(members),
        parents={name: np.full(len(members), -1) for name in ("children", "reader", "verdict")},
    )
    plain = ("texts", "answers", "told", "parents")
    other: dict[str, Any] = {name: value if name in plain else np.array(value) for name, value in given.items()}
    return replace(seen, **other)


def questions(entropy: np.ndarray, share: np.ndarray, answered: np.ndarray, **given: Any) -> Groups:
    """What the Proposer's terms see of these, with nothing known of what is not `given`."""
    nothing = {name: np.full(len(entropy), np.nan) for name in ("valid", "novelty", "balance")}
    return Groups(entropy, share, answered, **{**nothing, **{name: np.array(value) for name, value in given.items()}})


def cast(group: np.ndarray, **known: np.ndarray) -> Cast:
    """What a vote sees of rollouts of these groups, of whom nothing else is known."""
    unknown = np.full(len(group), np.nan)
    answered = known.pop("answered", np.ones(len(group), dtype=bool))
    return Cast(group, answered, *(known.get(name, unknown) for name in ("logprob", "weakest", "self_reward")))
