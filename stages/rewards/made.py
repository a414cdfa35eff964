"""What is said in rows of the rows that they were made of."""

import re

import numpy as np

from stages.parsing import answer_key
from stages.rewards.consensus import NO_ANSWER
from stages.rewards.rollouts import Rollouts

MOST_WORDS = 8  # of an answer that is looked for
_PART = re.compile(r"\d+|[^\W\d]+")


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
    """Whether an answer, by its key, stands in `text` as a word or several. The options A and I are words of a sentence
    too: they do where they are called options, bracketed, or capitals before no small letter."""
    if not key:
        return False
    if key in ("a", "i"):
        named = rf"\({key}\)|\b(?:option|answer|choice)(?: is|:)? {key}\b"
        return bool(re.search(named, text, re.IGNORECASE) or re.search(rf"\b{key.upper()}\b(?!['’]|\s+[a-z])", text))
    words = text.split()
    if re.search(rf"(?<!\w){re.escape(key.lower())}(?!\w|[.,]\d)", " ".join(words).lower()):
        return True
    longest = min(len(_PART.findall(key)) + 1, MOST_WORDS)  # a key has lost the spaces around its numbers and signs
    spans = (words[start : start + count] for count in range(1, longest + 1) for start in range(len(words) - count + 1))
    return any(answer_key(" ".join(span)) == key for span in spans)
