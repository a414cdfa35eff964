"""The rows of one pass are better than those of another, by how they came about."""

from collections.abc import Iterator, Sequence

import numpy as np


def pairs(passes: Sequence[np.ndarray], share: np.ndarray, seed: np.ndarray) -> Iterator[tuple[int, int]]:
    """Each row of the first pass, and the one at its place in the second; of several others one, drawn by its seed.

    passes: the places of the rows of each pass; share [R]: not used; seed [R] int.
    """
    first, *others = passes
    for place, row in enumerate(first):
        other = others[int(seed[row]) % len(others)]
        if place < len(other):
            yield int(row), int(other[place])
