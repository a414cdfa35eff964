"""Rows of an Arrow file or stream: what `datasets` saves and caches, what polars and pandas call IPC and Feather.

The file is mapped, and what is not compressed is read where it lies. Three things in a small file could come to
gigabytes: compressed buffers, whose sizes are found out first; offsets that lead elsewhere, which are validated; and
views, many of which may show the same bytes, so that a row becomes Python values within a budget.
"""

import struct
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.errors import DataError, first_line, why
from stages.images.sources.source import Problem, Record, holds_pictures
from stages.shards.pages import LIMIT_BYTES

MAGIC = b"ARROW1"  # at both ends of a file; between them is what a stream is
VALUE_BYTES = 64  # of a Python object, about
WRAPPERS = (pa.DictionaryScalar, pa.ExtensionScalar, pa.RunEndEncodedScalar, pa.UnionScalar)  # hold a scalar


class TooLarge(Exception):
    """A row that would take more than LIMIT_BYTES."""


class ArrowSource:
    """The record batches of a file, in order."""

    def __init__(self, file: Path) -> None:
        """Raises DataError for damage, and for a compressed file that would take more than LIMIT_BYTES."""
        self._file = file
        with self._reading():
            stream = _stream(pa.memory_map(str(file)).read_buffer())
            if (size := _decompressed_bytes(stream)) > LIMIT_BYTES:
                raise DataError(
                    f"{file}: would take {size >> 20} MiB to decompress, more than the {LIMIT_BYTES >> 20} MiB "
                    "allowed; write it without compression, or as Parquet"
                )
            reader = pa.ipc.open_stream(stream)
            self._schema = reader.schema
            self._batches = list(reader)
            self.columns: Sequence[str] = self._schema.names
            for kind in self._schema.types:
                holds_pictures(kind)  # asks for the names in it, of which one may be no text
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))
        self._sound: set[tuple[int, str]] = set()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self._file}: not an Arrow file, or damaged ({why(error)})") from error
        except (pa.ArrowException, UnicodeError, struct.error, IndexError, TypeError) as error:
            reason = first_line(error)
            raise DataError(f"{self._file}: not an Arrow file, or damaged ({reason})") from error

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def rows(self, wanted: Collection[int], columns: Sequence[str]) -> Iterator[tuple[int, Record | Problem]]:
        for place in sorted(wanted):
            with self._reading():
                row = self._row(place, columns)
            yield place, row

    def _row(self, place: int, columns: Sequence[str]) -> Record | Problem:
        number = bisect_right(self._ends, place)
        batch = self._batches[number]
        row = place - (self._ends[number] - batch.num_rows)
        for name in columns:
            if (number, name) not in self._sound:
                batch.column(name).validate(full=True)
                self._sound.add((number, name))
        budget = _Budget(LIMIT_BYTES)
        try:
            return {name: budget.python(batch.column(name)[row]) for name in columns}
        except TooLarge:
            return Problem(f"row {place} (counted from 0) is larger than {LIMIT_BYTES >> 20} MiB")

    def kind(self, column: str) -> pa.DataType | None:
        return self._schema.field(column).type


def _stream(whole: pa.Buffer) -> pa.Buffer:
    """The part of a file that is a stream: all of one that has no magic."""
    if whole.size < 8 or whole[: len(MAGIC)].to_pybytes() != MAGIC:
        return whole
    (footer,) = struct.unpack("<i", whole[whole.size - len(MAGIC) - 4 : whole.size - len(MAGIC)].to_pybytes())
    end = whole.size - len(MAGIC) - 4 - footer
    if footer < 0 or end < 8:
        raise pa.ArrowInvalid("its footer is not one")
    return whole[8:end]


class _Budget:
    """Scalars as Python has them, as long as they take no more than so many bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    def python(self, value: pa.Scalar) -> Any:
        """Raises TooLarge."""
        if isinstance(value, WRAPPERS):
            return None if value.value is None else self.python(value.value)
        if not value.is_valid:
            return None
        self._take(VALUE_BYTES + (value.as_buffer().size if isinstance(value, pa.BinaryScalar) else 0))
        if isinstance(value, pa.StructScalar):
            return {name: self.python(inner) for name, inner in value.items()}
        if isinstance(value, pa.ListScalar):
            if value.type.value_type == pa.uint8() and not value.values.null_count:
                self._take(len(value.values))
                return value.values.to_numpy().tobytes()
            return [self.python(inner) for inner in value.values]
        return value.as_py()

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge


# ------------------------------------------------------------- Arrow's messages, which are flatbuffers


def _decompressed_bytes(stream: pa.Buffer) -> int:
    """What the compressed buffers of all batches come to; 0 where none is compressed. Raises pyarrow's errors,
    struct.error and IndexError for damage."""
    messages = pa.ipc.MessageReader.open_stream(stream)
    size = 0
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return size
        if message.type in ("record batch", "dictionary"):
            size += _batch_bytes(message)


def _batch_bytes(message: Any) -> int:
    table = _Table.root(message.metadata.to_pybytes())
    batch = table.table(2)
    if message.type == "dictionary":
        batch = batch.table(1)
    if not batch.has(3):  # how it is compressed
        return 0
    size = 0
    for place, length in batch.pairs(2):
        if length >= 8:
            (unpacked,) = struct.unpack("<q", message.body[place : place + 8].to_pybytes())
            size += length - 8 if unpacked == -1 else unpacked
            if unpacked < -1:
                raise pa.ArrowInvalid("a compressed buffer of negative size")
    return size


class _Table:
    """A table of a flatbuffer, at `place` in `data`; fields go by their numbers."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - self._number("<i", place)

    @staticmethod
    def root(data: bytes) -> "_Table":
        return _Table(data, struct.unpack_from("<I", data)[0])

    def _number(self, kind: str, place: int) -> int:
        return struct.unpack_from(kind, self._data, place)[0]

    def _offset(self, field: int) -> int:
        size = self._number("<H", self._fields)
        return self._number("<H", self._fields + 4 + 2 * field) if 4 + 2 * field < size else 0

    def has(self, field: int) -> bool:
        return self._offset(field) != 0

    def _target(self, field: int) -> int:
        place = self._place + self._offset(field)
        return place + self._number("<I", place)

    def table(self, field: int) -> "_Table":
        return _Table(self._data, self._target(field))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """A vector of structs of two 64-bit integers."""
        place = self._target(field)
        count = self._number("<I", place)
        for start in range(place + 4, place + 4 + 16 * count, 16):
            yield self._number("<q", start), self._number("<q", start + 8)
