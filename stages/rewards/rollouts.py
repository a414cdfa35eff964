"""What a term of the Solver's reward sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Rollouts:
    """The Solver's rollouts of a block of whole groups, in the order they were sampled; a group here is those of one
    pass.

    Of each rollout: group [R] int, in [0, M). hit [R] bool: the answer is the target, by default the dominant answer.
    prob [R]: p(a|x,q), 0 without an answer. dominant [R] bool: in the dominant-answer group G. words [R] int: before
    the answer tag. tokens [R] int: as sampled, 0 where none are recorded. logprob [R]: sum of the stored
    log-probabilities, nats, NaN where there are none. texts [R]: the completions. key [R] int: equal where the answers
    are, −1 without one. right [R] int: the key of the target, −1 without one. answers [R]: the canonical answers.
    verdict [R]: the number in the row's verdict tag, scaled to [0, 1], NaN without one. told [R]: what of the row that
    it was made of stood in its prompt.

    parents: of each term that looks at the rows made of a row, [R] int: which rollout this one was made of, −1 where it
    is not looked at.

    Of each group: size [M] int: N. dominant_size [M] int: |G|.

    Of each step, all of them: rollout, position [S] int. similarity [S]: cosine to the prototype, NaN without one.
    """

    group: np.ndarray
    hit: np.ndarray
    prob: np.ndarray
    dominant: np.ndarray
    words: np.ndarray
    tokens: np.ndarray
    logprob: np.ndarray
    texts: Sequence[str]
    size: np.ndarray
    dominant_size: np.ndarray
    rollout: np.ndarray
    position: np.ndarray
    similarity: np.ndarray
    key: np.ndarray
    right: np.ndarray
    answers: Sequence[str | None]
    verdict: np.ndarray
    told: Sequence[str]
    parents: Mapping[str, np.ndarray] = field(default_factory=dict)
