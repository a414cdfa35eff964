"""Rows of a Parquet file."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from stages import shards
from stages.images.sources.source import Problem, Record


class ParquetSource:
    """What `shards` reads, within its bounds on memory."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._schema = shards.schema_of(file)
        self.columns = self._schema.names
        self._rows = shards.row_count(file)

    def __len__(self) -> int:
        return self._rows

    def rows(self, wanted: Collection[int], columns: Sequence[str]) -> Iterator[tuple[int, Record | Problem]]:
        return shards.read_rows(self._file, columns, wanted)

    def kind(self, column: str) -> pa.DataType | None:
        return self._schema.field(column).type
