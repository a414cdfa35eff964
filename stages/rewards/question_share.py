"""How much of what was asked about an image is the same question."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

LONGEST_NGRAM = 4
ZERO_COUNT = 0.1  # what no match at all of n words counts
MERGED_BELOW = 0.5  # distance


def question_shares(questions: Sequence[str | None], image: Sequence[str | None]) -> np.ndarray:
    """|C|/K: C the questions like this one, itself among them, of the K proposals about the same image   [M]

    questions [M], in the order they were proposed, None for a proposal without one, which is among the K all the same;
    image [M]: equal where the image is. 0 without a question or an image. Questions are alike by average linkage of
    1 − BLEU, merged below 0.5. A question that is the only proposal about its image has share 1.
    """
    proposals: dict[str, list[int]] = {}
    for place, seen in enumerate(image):
        if seen is not None:
            proposals.setdefault(seen, []).append(place)
    shares = np.zeros(len(questions))
    for places in proposals.values():
        asked = {place: text for place in places if (text := questions[place]) is not None}
        cluster = _clusters(list(asked.values()))
        shares[list(asked)] = np.bincount(cluster)[cluster] / len(places)
    return shares


def _clusters(texts: Sequence[str]) -> np.ndarray:
    """The cluster of each text, as a number."""
    if len(texts) < 2:
        return np.zeros(len(texts), dtype=np.int64)
    distance = [1 - sentence_bleu(earlier, later) for earlier, later in combinations(texts, 2)]
    return fcluster(linkage(distance, "average"), np.nextafter(MERGED_BELOW, 0.0), "distance")


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """BLEU-4 of one sentence against another: exp(min(0, 1 − r/c) + ¼ Σ_n log p_n), of c and r words

    p_n: the share of the hypothesis' n words in a row that the reference has, each as often as it has them; where it
    has none, 0.1 in their place. 0 without a word in common.
    """
    given, wanted = hypothesis.split(), reference.split()
    if not set(given) & set(wanted):
        return 0.0
    total = min(0.0, 1 - len(wanted) / len(given))
    for n in range(1, LONGEST_NGRAM + 1):
        found = _ngrams(given, n)
        matches = (found & _ngrams(wanted, n)).total()
        total += math.log((matches or ZERO_COUNT) / max(found.total(), 1)) / LONGEST_NGRAM
    return math.exp(total)


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
