"""The best of the policy's rows over the worst of an earlier policy's (anchored rejection, arXiv 2508.06026)."""

from collections.abc import Iterator, Sequence

import numpy as np


def pairs(passes: Sequence[np.ndarray], share: np.ndarray, seed: np.ndarray) -> Iterator[tuple[int, int]]:
    """The row of the first pass with the highest s over the row of the others with the lowest, if that is lower than
    all of the first's, else over the lowest of the first; none where the two are equal. Ties go to the row sampled
    first.

    passes: the places of the rows of each; share [R]: s; seed [R]: not used.
    """
    own, earlier = passes[0], np.concatenate(passes[1:])
    if not len(own):
        return
    best, worst = own[np.argmax(share[own])], own[np.argmin(share[own])]
    if len(earlier) and share[earlier].min() < share[worst]:
        worst = earlier[np.argmin(share[earlier])]
    if share[best] > share[worst]:
        yield int(best), int(worst)
