"""How unlike a question is to those asked before it."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Indel


def novelties(questions: Sequence[str | None]) -> np.ndarray:
    """1 − max ROUGE-L with an earlier question   [M]

    questions [M], in the order they were asked, None for none: 0. The first is new: 1."""
    asked: list[list[str]] = []
    found = np.zeros(len(questions))
    for place, question in enumerate(questions):
        if question is not None:
            words = question.lower().split()
            found[place] = 1 - max((rouge_l(words, earlier) for earlier in asked), default=0.0)
            asked.append(words)
    return found


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """2·LCS/(m + n), ROUGE-L's F1: LCS the length of the longest common subsequence of m and n words."""
    return Indel.normalized_similarity(one, other) if one and other else 0.0
