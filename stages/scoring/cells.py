"""The Solver's rows of a block by cell, which is one pass of one group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stages.contract import ANSWER, PROPOSER


@dataclass(frozen=True)
class Cells:
    """Of the rollouts [R] of a block of M groups: row, their places in it; group, cell. Of the cells [C], in order:
    of_group, of_pass. first [M]: the proposers' places."""

    row: np.ndarray
    group: np.ndarray
    cell: np.ndarray
    of_group: np.ndarray
    of_pass: list[str]
    first: np.ndarray

    @staticmethod
    def of(block: pa.Table) -> "Cells":
        is_proposer = np.array(block["role"].to_pylist()) == PROPOSER
        row = np.flatnonzero(~is_proposer)
        group = (np.cumsum(is_proposer) - 1)[row]
        names = np.array([name or ANSWER for name in block["pass"].take(row).to_pylist()], dtype=object)
        begins = (np.diff(group, prepend=-1) != 0) | (names != np.roll(names, 1))
        start = np.flatnonzero(begins)
        cell = np.cumsum(begins) - 1
        return Cells(row, group, cell, group[start], list(names[start]), np.flatnonzero(is_proposer))

    def __len__(self) -> int:
        return len(self.of_pass)

    @property
    def groups(self) -> int:
        return len(self.first)

    def find(self, of_pass: str) -> np.ndarray:
        """The cell of each group with this pass, −1 without   [M]"""
        found = np.full(self.groups, -1)
        for cell, name in enumerate(self.of_pass):
            if name == of_pass:
                found[self.of_group[cell]] = cell
        return found

    def spread(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """A value of each of these places in the block, NaN elsewhere   [rows of the block]"""
        spread = np.full(len(self.row) + self.groups, np.nan)
        spread[places] = values
        return spread

    def column(self, values: Sequence[Any] | np.ndarray, kind: pa.DataType) -> pa.Array:
        """A column of the block of the rollouts' values [R], null on the proposers' rows."""
        place = np.full(len(self.row) + self.groups, -1)
        place[self.row] = np.arange(len(self.row))
        return pa.array(list(values), kind).take(pa.array(place, mask=place < 0))

    def are(self, *passes: str) -> np.ndarray:
        """Whether a rollout is of one of these passes   [R] bool"""
        return np.array([name in passes for name in self.of_pass], dtype=bool)[self.cell]
