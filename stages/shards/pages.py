"""How much memory the pages of a Parquet file can come to, found out before anything decodes them.

A file of 500 bytes can decode to gigabytes: pages compress a thousandfold, a dictionary repeats one long value for
every row, and run lengths make a list of any size from a few bytes. Parquet's footer need not tell. The headers of the
pages do, since the decoder allocates by them; they are read here (Thrift's compact protocol, `PageHeader` in
parquet.thrift), and bound what a batch of rows can take.
"""

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.errors import DataError, why

READ_ROWS = 256  # rows decoded at a time, at most
BATCH_BYTES = 256 << 20  # a batch has fewer rows where it could come to more than this
LIMIT_BYTES = 512 << 20  # no single row may come to more: twice that, with what is made of it, is the promised 1 GiB

DICTIONARY_PAGE = 2
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
LEVELS = 8  # bytes of definition level, repetition level and offset beside each value
CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4": "lz4_raw"}
HEADER_BYTES = 16 << 20  # what the decoder accepts as one header, too


class Malformed(Exception):
    """These bytes are no page header."""


@dataclass
class _Column:
    """What the page headers of one column in one row group say; sizes uncompressed, in bytes."""

    repeated: bool
    width: int | None  # bytes of a value; None where values vary
    values: int = 0
    largest_page: int = 0
    data: int = 0
    dictionary: int = 0
    longest_entry: int = 0  # of the dictionary

    def bytes_of(self, rows: int, of_rows: int) -> int:
        """At most so much for `rows` of this row group's `of_rows`."""
        # Every other row takes at least one value, if only a null.
        values = max(rows, self.values - (of_rows - rows)) if self.repeated else rows
        if self.width is not None:
            content = values * self.width
        else:
            content = min(self.data, values * self.largest_page) + values * self.longest_entry
        return content + values * LEVELS + self.dictionary + 2 * self.largest_page


def rows_at_a_time(path: Path, metadata: Any, group: int, columns: Iterable[str]) -> int:
    """How many rows of row group `group` may be decoded at a time, 1 to READ_ROWS, of the top-level `columns`.

    metadata: pyarrow's FileMetaData of `path`. Raises DataError when even a single row could take more than
    LIMIT_BYTES, or the headers cannot be read.
    """
    wanted = set(columns)
    row_group = metadata.row_group(group)
    try:
        with path.open("rb") as file:
            found = [
                _walk(file.fileno(), row_group.column(leaf), metadata.schema.column(leaf))
                for leaf in range(row_group.num_columns)
                if row_group.column(leaf).path_in_schema.split(".")[0] in wanted
            ]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({why(error)})") from error
    except (Malformed, IndexError, struct.error, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: not a Parquet file, or damaged (a page header cannot be read)") from error
    rows = READ_ROWS
    while (need := sum(column.bytes_of(rows, row_group.num_rows) for column in found)) > BATCH_BYTES and rows > 1:
        rows //= 4
    if need > LIMIT_BYTES:
        raise DataError(
            f"{path}: its row group {group} could take {need >> 20} MiB of memory to read, more than the "
            f"{LIMIT_BYTES >> 20} MiB allowed; if it is meant, write it again with smaller row groups"
        )
    return rows


def _walk(descriptor: int, chunk: Any, column: Any) -> _Column:
    width = column.length if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY" else WIDTHS.get(chunk.physical_type)
    found = _Column(column.max_repetition_level > 0, width)
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
        place = chunk.dictionary_page_offset
    end = place + chunk.total_compressed_size
    while place < end:
        header, length = _page_header(descriptor, place)
        kind, size, compressed = (_number(header, field) for field in (1, 2, 3))
        found.largest_page = max(found.largest_page, size)
        if kind == DICTIONARY_PAGE:
            found.dictionary += size
            if found.width is None:
                body = os.pread(descriptor, compressed, place + length) if size <= LIMIT_BYTES else b""
                found.longest_entry = max(found.longest_entry, _longest_entry(body, size, chunk.compression))
        else:
            found.data += size
            found.values += _number(header.get(5) or header.get(8) or {}, 1)
        place += length + compressed
    return found


def _longest_entry(page: bytes, size: int, compression: str) -> int:
    """The longest of a dictionary's byte arrays; all of the page where it cannot be looked into."""
    if compression in CODECS:
        try:
            page = pa.Codec(CODECS[compression]).decompress(page, size, asbytes=True)
        except (pa.ArrowException, OSError):
            return size
    if len(page) != size:
        return size
    place, longest = 0, 0
    while place + 4 <= size:
        (length,) = struct.unpack_from("<I", page, place)
        longest = max(longest, length)
        place += 4 + length
    return longest


def _number(fields: dict[int, Any], field: int) -> int:
    value = fields.get(field)
    if not isinstance(value, int) or value < 0:
        raise Malformed
    return value


# --------------------------------------------------------------------------- Thrift's compact protocol


def _page_header(descriptor: int, place: int) -> tuple[dict[int, Any], int]:
    """The fields of the page header at `place`, by their numbers, and its length."""
    size = 256
    while True:
        data = os.pread(descriptor, size, place)
        try:
            return _struct(data, 0, 0)
        except (IndexError, struct.error):
            if len(data) < size or size >= HEADER_BYTES:
                raise
            size *= 16


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise Malformed


def _integer(data: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(data, place)
    return value >> 1 ^ -(value & 1), place


def _struct(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """Integers and structs by field number; anything else is passed over."""
    if depth > 8:
        raise Malformed
    fields: dict[int, Any] = {}
    number = 0
    while byte := data[place]:
        place += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, place = _integer(data, place)
        fields[number], place = _value(data, place, byte & 0x0F, depth)
    return fields, place + 1


def _value(data: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # a boolean is in its type
        return kind == 1, place
    if kind == 3:
        return None, place + 1
    if kind in (4, 5, 6):
        return _integer(data, place)
    if kind == 7:
        return None, place + 8
    if kind == 8:
        length, place = _varint(data, place)
        return None, place + length
    if kind == 12:
        return _struct(data, place, depth + 1)
    raise Malformed  # page headers hold no lists, sets or maps
