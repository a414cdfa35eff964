"""The columns of `--pairs`: which row is preferred to which."""

import numpy as np
import pyarrow as pa

from stages.rewards.consensus import NO_ANSWER
from stages.rewards.selection.keep import keep
from stages.scoring.cells import Cells
from stages.scoring.chosen import Chosen
from stages.scoring.said import Said


def preferences(block: pa.Table, cells: Cells, chosen: Chosen, said: Said, vote: np.ndarray) -> dict[str, pa.Array]:
    """Where pairs were asked for: of rows with tokens, counted within a group; none in a group that `--keep` leaves out
    by the vote [R] of its first pass."""
    if chosen.pairs is None:
        return {}
    rule, names = chosen.pairs
    pair: list[int | None] = [None] * len(block)
    preferred: list[bool | None] = [None] * len(block)
    seed = block["seed"].take(cells.row).fill_null(0).to_numpy(zero_copy_only=False)
    key, share = said.key, np.zeros(len(said.key))
    for group in range(cells.groups):
        rows = [np.flatnonzero((cells.group == group) & cells.are(name)) for name in names]
        if chosen.keep and not keep(vote[rows[0]], *chosen.keep).all():
            continue
        votes = key[rows[0]]
        for place in np.concatenate(rows):
            share[place] = (votes == key[place]).mean() if len(votes) and key[place] != NO_ANSWER else 0.0
        sampled = [own[said.tokens[own] > 0] for own in rows]
        for number, (better, worse) in enumerate(rule(sampled, share, seed)):
            for place, good in ((better, True), (worse, False)):
                pair[cells.row[place]], preferred[cells.row[place]] = number, good
    return {"pair": pa.array(pair, pa.int32()), "preferred": pa.array(preferred, pa.bool_())}
