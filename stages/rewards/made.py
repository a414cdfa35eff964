"""What is said in rows of the rows that they were made of."""

import re

import numpy as np

from stages.parsing import answer_key
from stages.rewards.consensus import NO_ANSWER
from stages.rewards.rollouts import Rollouts


def mean_of_made(rollouts: Rollouts, term: str, value: np.ndarray) -> np.ndarray:
    """The mean of `value` over the rows that were made of each and that `term` looks at; NaN without any   [R]

    value [R]; NaN where a row says nothing.
    """
    parent = rollouts.parents[term]
    says = np.flatnonzero((parent >= 0) & ~np.isnan(value))
    total = np.bincount(parent[says], value[says], minlength=len(parent))
    count = np.bincount(parent[says], minlength=len(parent))
    return np.divide(total, count, out=np.full(len(parent), np.nan), where=count > 0)


def hits(rollouts: Rollouts, term: str) -> np.ndarray:
    """1[a = target of the row that this one was made of], NaN for those that `term` does not look at   [R]"""
    parent = rollouts.parents[term]
    right = rollouts.key == rollouts.right[parent]
    return np.where(parent >= 0, right & (rollouts.key != NO_ANSWER), np.nan).astype(np.float64)


def contains(text: str, key: str | None) -> bool:
    """Whether an answer, by its key, stands in `text` as a word or several."""
    if not key:
        return False
    words = " ".join(text.split()).lower()
    return any(answer_key(word) == key for word in words.split()) or bool(
        re.search(rf"(?<!\w){re.escape(key.lower())}(?!\w|[.,]\d)", words)
    )
