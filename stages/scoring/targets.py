"""Whose answer is right: a rollout's target is the answer that its own pass elects, or another, or several together, or
the one that is known."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.parsing import answer_key
from stages.rewards.consensus import NO_ANSWER, Consensus
from stages.rewards.pooled import pooled
from stages.scoring.cells import Cells
from stages.scoring.passes import KNOWN, Passes, together
from stages.scoring.said import Said


class Targets(NamedTuple):
    """Of each rollout [R] int: right, the key of its target, NO_ANSWER without one; judged_by, the cell whose vote that
    is, its own where it is not that of one."""

    right: np.ndarray
    judged_by: np.ndarray


def targets(
    block: pa.Table, cells: Cells, passes: Passes, said: Said, counts: np.ndarray, elected: Consensus, harmonic: bool
) -> Targets:
    """Of the rollouts of a block; counts [R]: what each counts in a vote; elected: by the votes of the cells; harmonic:
    how the votes of several passes are put together."""
    key = said.key
    best = np.full(len(cells), NO_ANSWER)
    best[cells.cell[elected.dominant]] = key[elected.dominant]
    right, judged_by = best[cells.cell], cells.cell.copy()
    for name, target in passes.target.items():
        own = cells.are(name)
        if target == KNOWN:
            known = block["target"].take(cells.first).to_pylist()
            right[own] = said.keys([answer_key(text or "") or None for text in known])[cells.group[own]]
        elif len(several := together(target)) > 1:
            at = cells.are(*several)
            seen = np.argmax([cells.are(each)[at] for each in several], axis=0)
            together_best = pooled(cells.group[at], key[at], seen, len(several), cells.groups, counts[at], harmonic)
            right[own] = together_best[cells.group[own]]
        else:
            cell = cells.find(target)[cells.group[own]]
            right[own] = np.where(cell >= 0, np.append(best, NO_ANSWER)[cell], NO_ANSWER)
            judged_by[own] = np.where(cell >= 0, cell, judged_by[own])
    return Targets(right, judged_by)
