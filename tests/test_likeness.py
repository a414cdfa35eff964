"""Which steps claim the same in other words, and how well embeddings tell."""

import numpy as np
import pytest

from stages.embedding import Step
from tests.evidence.likeness import Pairs, told_apart


def test_pairs_are_of_different_words_at_one_place_of_one_group() -> None:
    said = {
        0: ("The first bar is 4.", "4 + 2 = 6."),
        1: ("Now the first bar reaches 4.", "4 plus 2 is 6."),
        2: ("The first bar is 5.", "4 + 2 = 6."),
        3: ("The first bar goes up to 4.",),  # of another group
    }
    known = {
        Step(row, 100 * place, text): np.array([1.0, row])
        for row, texts in said.items()
        for place, text in enumerate(texts)
    }
    pairs = Pairs.of(known, {0: 0, 1: 0, 2: 0, 3: 1})
    cosines = {(0, 1): 1 / 2**0.5, (0, 2): 1 / 5**0.5, (1, 2): 3 / 10**0.5}
    # At the first place all three differ, at the second 0 and 2 are the same text.
    wanted = [(cosines[0, 1], 1), (cosines[0, 2], 0), (cosines[1, 2], 0), (cosines[0, 1], 1), (cosines[1, 2], 1)]
    assert list(zip(pairs.cosine, pairs.same, strict=True)) == [pytest.approx(each) for each in wanted]
    assert pairs.group.tolist() == [0] * 5


def test_the_threshold_is_where_the_kinds_are_told_apart_best() -> None:
    same, different = np.array([0.2, 0.7, 0.8, 0.9]), np.array([-0.5, 0.1, 0.3, 0.4])
    assert told_apart(same, different) == pytest.approx((0.7, 0.75, 0.0))
