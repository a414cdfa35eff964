"""Parquet files, one at a time: the one module that reads and writes them.

Reading verifies the checksums of pages, the columns and their types, and that no batch can exhaust memory (`pages`).
"""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.contract import IMAGE, MAY_LACK, METADATA_KEY, Metadata
from stages.errors import DataError, first_line
from stages.shards.durable import sync_file
from stages.shards.pages import rows_at_a_time
from stages.shards.sealing import seal


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever pyarrow raises over a bad file into a DataError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = first_line(error)
        raise DataError(f"{path}: not a Parquet file, or damaged ({reason})") from error


def _open(path: Path) -> pq.ParquetFile:
    with _reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True)


def read_metadata(path: Path) -> Metadata:
    """The `ireasoner` metadata of one file. Raises DataError when it has none or it cannot be read."""
    with _open(path) as file:
        text = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise DataError(
            f"{path}: no `ireasoner` metadata; it was not written by a stage of this tool, or rewritten without, as "
            "pandas and DuckDB do; pyarrow keeps them (cookbook, rewards of your own)"
        )
    return Metadata.from_json(text, str(path))


def schema_of(path: Path) -> pa.Schema:
    with _open(path) as file:
        return file.schema_arrow


def row_count(path: Path) -> int:
    with _open(path) as file:
        return file.metadata.num_rows


def row_group_count(path: Path) -> int:
    with _open(path) as file:
        return file.num_row_groups


def read_batches(
    path: Path, schema: pa.Schema, optional: pa.Schema | None = None, row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of bounded size with the columns of `schema`, cast to its types; a column that the file lacks is null
    where it is `optional`, or one that trajectories may lack. All rows, or those of some `row_groups`. Raises DataError
    for missing columns, wrong types, damage, or rows too large for the memory."""
    with _open(path) as file:
        present = file.schema_arrow.names
        if twice := [name for name in schema.names if present.count(name) > 1]:
            raise DataError(f"{path}: has the column {twice[0]} more than once")
        if missing := [name for name in schema.names if name not in present and name not in MAY_LACK]:
            raise DataError(f"{path}: lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
        wanted = pa.schema([*schema, *(optional or ())])
        columns = [name for name in wanted.names if name in present]
        for group in range(file.num_row_groups) if row_groups is None else row_groups:
            for batch in _row_group_batches(path, file, group, columns):
                yield pa.RecordBatch.from_arrays(
                    [_cast(batch, column, path) for column in wanted], schema=wanted.remove_metadata()
                )


def read_columns(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of bounded size with some of the file's columns, in whatever types they have there."""
    with _open(path) as file:
        for group in range(file.num_row_groups):
            yield from _row_group_batches(path, file, group, columns)


def _row_group_batches(path: Path, file: Any, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if not file.metadata.row_group(group).num_rows:
        return  # an empty table is a row group without pages, as pyarrow writes it
    size = rows_at_a_time(path, file.metadata, group, columns)
    with _reading(path):
        yield from file.iter_batches(size, row_groups=[group], columns=columns)


def _cast(batch: pa.RecordBatch, column: pa.Field, path: Path) -> pa.Array:
    if column.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, column.type)
    values = batch.column(column.name)
    try:
        if column.type == IMAGE:
            return _cast_images(values)
        if column.type == pa.list_(IMAGE):
            return _cast_image_lists(values)
        return values.cast(column.type)
    except pa.ArrowException as error:
        raise DataError(f"{path}: column {column.name} is {values.type}, and must be {column.type}") from error


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _cast_images(values: pa.Array) -> pa.Array:
    """Encoded images as structs of bytes and path, whichever binary and string types another tool chose."""
    if _is_bytes(values.type):
        parts = [values, pa.nulls(len(values), pa.string())]
    else:
        parts = [pc.struct_field(values, name) for name in ("bytes", "path")]
    cast = [part.cast(field.type) for part, field in zip(parts, IMAGE, strict=True)]
    return pa.StructArray.from_arrays(cast, fields=list(IMAGE), mask=values.is_null())


def _cast_image_lists(values: pa.Array) -> pa.Array:
    # By lengths and not by offsets: of large lists, lists of fixed size and slices of any, too.
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(values), 0)).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, _cast_images(pc.list_flatten(values)), mask=values.is_null())


def read_rows(path: Path, columns: Sequence[str], rows: Collection[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Some columns of the given rows, in whatever types they have there, with the rows' places; in file order, reading
    only the row groups that hold them."""
    with _open(path) as file:
        first = 0
        for index in range(file.num_row_groups):
            end = first + file.metadata.row_group(index).num_rows
            inside = sorted(row for row in rows if first <= row < end)
            start = first
            for batch in _row_group_batches(path, file, index, list(columns)) if inside else ():
                for row in (row for row in inside if start <= row < start + batch.num_rows):
                    yield row, {name: batch[name][row - start].as_py() for name in columns}
                start += batch.num_rows
                if start > inside[-1]:
                    break
            first = end


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A whole small file. Raises DataError for missing columns or damage."""
    return pa.Table.from_batches(read_batches(path, schema), schema=schema)


def read_own(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file of a size that its writer has bounded, or some of its columns."""
    return pq.read_table(path, columns=list(columns) if columns else None, page_checksum_verification=True)


def write_file(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes the tables, a row group each, with checksums of the pages and of the whole, and puts the file on disk; the
    rename that makes it appear is the caller's. Raises OSError."""
    with pq.ParquetWriter(
        path, schema, compression="zstd", write_page_checksum=True, use_dictionary=_dictionary_columns(schema)
    ) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    seal(path)
    sync_file(path)


def write_table(path: Path, table: pa.Table, metadata: Metadata | None = None) -> None:
    """Writes a small table as a file of its own, which says how it was made where there is `metadata`."""
    own = {METADATA_KEY: metadata.to_json().encode()} if metadata else {}
    write_file(path, table.schema.with_metadata({**own, **image_feature(table.schema)}), [table])


def image_feature(schema: pa.Schema) -> dict[bytes, bytes]:
    """The metadata by which Hugging Face datasets shows a column of images, or of lists of them, as pictures."""
    picture = {"_type": "Image"}
    kinds = ((IMAGE, picture), (pa.list_(IMAGE), {"feature": picture, "_type": "List"}))
    features = {column.name: shown for column in schema for kind, shown in kinds if column.type == kind}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if features else {}


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    """All leaves but lists of texts: with one long text in their dictionary the bound on what a row may take, which
    cannot know how often it comes, would refuse the file."""
    paths = []
    for field in schema:
        if pa.types.is_struct(field.type):
            paths += [f"{field.name}.{inner.name}" for inner in field.type]
        elif pa.types.is_list(field.type):
            paths += [] if pa.types.is_string(field.type.value_type) else [f"{field.name}.list.element"]
        else:
            paths.append(field.name)
    return paths
