"""A pool whose pictures are in the rows of files, with or without questions beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from stages import shards
from stages.contract import UNREADABLE
from stages.errors import DataError
from stages.images import forms
from stages.images.columns import Columns, image_column, kind_of, value
from stages.images.forms import PoolImage, PoolRow
from stages.images.sources import Problem, Record, is_list, open_source

WINDOW = 64  # rows in memory at a time
WINDOW_BYTES = 256 << 20  # fewer where they come to more


class Dataset:
    """The rows of one or several files, in order. `recorded` is what a shard records of where they are from, beside
    the files' hashes."""

    def __init__(
        self, files: Sequence[Path], wanted: Columns, *, follow: bool = True, recorded: dict[str, Any] | None = None
    ) -> None:
        """Paths in rows are looked for beside their file and in the working directory, unless `follow` is off.

        Raises DataError for damage, without rows or pictures, and where several columns hold pictures and none is
        named; UsageError for columns that are not there.
        """
        self._files, self._follow = files, follow
        self._sources = [open_source(file) for file in files]
        self._ends = list(accumulate(map(len, self._sources)))
        filled = [(file, source) for file, source in zip(files, self._sources, strict=True) if len(source)]
        if not filled:
            raise DataError(f"{files[0]}: the dataset has no rows")
        self._columns = replace(wanted, image=wanted.image or image_column(*filled[0]))
        for file, source in filled:
            self._columns.check(file, source)
        self.inputs = shards.input_refs(files)
        self.recorded = recorded or {}

    def __len__(self) -> int:
        return self._ends[-1]

    def most_images(self, positions: Sequence[int]) -> int:
        """Without reading files that rows name."""
        name = self._columns.image or ""
        if not any(is_list(kind_of(name, source)) for source in self._sources if len(source)):
            return 1
        rows = (row for _, row in self._rows(positions))
        return max((forms.count(value(row, name)) for row in rows if not isinstance(row, Problem)), default=0) or 1

    def read(self, positions: Sequence[int]) -> Iterator[PoolRow]:
        for file, row in self._rows(positions):
            if isinstance(row, Problem):
                yield PoolRow((PoolImage(None, None, f"{UNREADABLE}: {row}"),))
                continue
            beside = file.parent if self._follow else None
            yield PoolRow(
                tuple(forms.pictures(value(row, self._columns.image), beside)),
                forms.question(value(row, self._columns.question)),
                forms.text(value(row, self._columns.target)),
            )

    def _rows(self, positions: Sequence[int]) -> Iterator[tuple[Path, Record | Problem]]:
        for start in range(0, len(positions), WINDOW):
            yield from self._window(positions[start : start + WINDOW])

    def _window(self, positions: Sequence[int]) -> Iterator[tuple[Path, Record | Problem]]:
        """The rows at `positions`, read in the order of the files; in two halves where they are too large together."""
        found: dict[int, tuple[Path, Record | Problem]] = {}
        size, half = 0, len(positions) // 2
        for position, file, row in self._find(set(positions)):
            size += _weight(row)
            if size > WINDOW_BYTES and half:
                found.clear()
                yield from self._window(positions[:half])
                yield from self._window(positions[half:])
                return
            found[position] = file, row
        yield from (found[position] for position in positions)

    def _find(self, wanted: set[int]) -> Iterator[tuple[int, Path, Record | Problem]]:
        first = 0
        for file, source, end in zip(self._files, self._sources, self._ends, strict=True):
            inside = {position - first for position in wanted if first <= position < end}
            for place, row in source.rows(inside, self._columns.tops(source)) if inside else ():
                yield first + place, file, row
            first = end


def _weight(found: Any) -> int:
    """About how many bytes of memory it takes."""
    if isinstance(found, dict):
        return sum(map(_weight, found.values()))
    if isinstance(found, list):
        return 8 * len(found) + sum(_weight(each) for each in found if not isinstance(each, int))
    return len(found) if isinstance(found, bytes | str) else 8
