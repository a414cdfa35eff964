"""Shards on disk: the one module that touches Parquet.

Reading verifies checksums (of pages, and of the whole file: `sealing`), the columns and their types, that a set of
parts is complete, that groups are whole, and that no batch can exhaust memory (`pages`). Writing goes through a hidden
`.NAME.partial/` beside the output: finished chunks of groups gather there, so that a killed stage loses at most one
chunk and an interrupted one nothing, and the file appears by an atomic rename once all its bytes are on disk.
"""

import contextlib
import fcntl
import heapq
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.contract import IMAGE, METADATA_KEY, PROPOSER, SOLVER, InputRef, Metadata
from stages.errors import DataError, EngineError, UsageError
from stages.pages import LIMIT_BYTES, rows_at_a_time
from stages.progress import SILENT, Progress
from stages.sealing import checked_sha256, seal

PART = re.compile(r"part-([1-9]\d*)-of-([1-9]\d*)\.parquet")
SHOWN_INPUTS = 3
SHOWN_DIFFERENCES = 4
# Finished groups that become one chunk file, and one row group of the output; fewer where they are large.
GROUPS_PER_CHUNK = 64
CHUNK_BYTES = 64 << 20
# In the metadata of unfinished files alone: how many groups a chunk holds; how many chunks come before what was put
# aside, and where each of its groups ends.
GROUPS_KEY, CHUNKS_BEFORE_KEY, ENDS_KEY = b"groups", b"chunks_before", b"group_ends"
ASIDE = "aside.parquet"


@dataclass(frozen=True)
class Part:
    """`--shard I/N`: the I-th, counted from 1, of N contiguous blocks."""

    index: int = 1
    count: int = 1

    def bounds(self, total: int) -> tuple[int, int]:
        """First and one-past-last of this block of `total` things."""
        return (self.index - 1) * total // self.count, self.index * total // self.count

    @property
    def file_name(self) -> str:
        return f"part-{self.index}-of-{self.count}.parquet"


# ---------------------------------------------------------------------------------------------- locating


def output_path(out: Path | None, default: str, inputs: Sequence[Path], part: Part | None) -> Path:
    """The file a stage writes: `--out`, or the stage's own name (`default`, without suffix) beside its input.

    Raises UsageError for a shard of a single file, and for an output that is the input.
    """
    if out is None:
        beside = inputs[0].parent if inputs else Path()
        as_directory = part is not None or (bool(inputs) and inputs[0].is_dir())
        out = beside / (default if as_directory else f"{default}.parquet")
    if any(path.exists() and out.resolve() == path.resolve() for path in inputs):
        raise UsageError(f"{out} is the input; name another --out")
    if out.suffix != ".parquet":
        return out / (part or Part()).file_name
    if part is not None:
        raise UsageError(f"--shard writes parts into a directory, and --out {out} names a single file")
    return out


def input_files(paths: Sequence[Path]) -> list[Path]:
    """The Parquet files meant by files and directories; parts in their order, and all of them.

    Raises UsageError for a path that does not exist, DataError for an incomplete or mixed set of parts.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
            if not found:
                raise DataError(f"{path}: the directory holds no Parquet file")
            # Where there are parts, they are the directory's content; anything else only lies beside them.
            files += [file for file in found if PART.fullmatch(file.name)] or found
        elif path.exists():
            files.append(path)
        else:
            raise UsageError(f"{path}: no such file or directory")
    for directory in dict.fromkeys(file.parent for file in files):
        _check_parts(directory, [file.name for file in files if file.parent == directory])
    return sorted(files, key=_part_order) if all(PART.fullmatch(file.name) for file in files) else files


@dataclass(frozen=True)
class Found:
    """What there is of an output, finished or not. files: the finished ones; missing: how many parts of the set
    are not among them; unfinished: chunks of those that are being written, or were when their stage was killed."""

    files: list[Path]
    missing: int
    unfinished: list[Path]

    @property
    def readable(self) -> list[Path]:
        return [*self.files, *self.unfinished]


def find_output(path: Path) -> Found:
    """For looking only, at a run in progress: what a stage's input must be, `input_files` says.

    Raises UsageError when there is nothing at `path`, finished or not; DataError when it holds no rows yet.
    """
    if path.is_dir():
        found = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
        files = sorted((file for file in found if PART.fullmatch(file.name)), key=_part_order) or found
        partials = sorted(path.glob(".*.parquet.partial"))
    else:
        files = [path] if path.exists() else []
        partials = [] if files else [partial for partial in [partial_directory(path)] if partial.is_dir()]
        if not files and not partials:
            raise UsageError(f"{path}: no such file or directory")
    unfinished = [chunk for partial in partials for chunk in sorted(partial.glob("chunk-*.parquet"))]
    if not files and not unfinished:
        raise DataError(f"{path}: no Parquet file here" + (", only one that has just been begun" if partials else ""))
    counts = [int(match[2]) for match in (PART.fullmatch(file.name) for file in files) if match]
    return Found(files, max(counts) - len(files) if counts else 0, unfinished)


def _part_order(file: Path) -> tuple[str, int]:
    match = PART.fullmatch(file.name)
    return str(file.parent), int(match[1]) if match else 0


def _check_parts(directory: Path, names: list[str]) -> None:
    parts = [(int(match[1]), int(match[2])) for match in map(PART.fullmatch, names) if match]
    counts = sorted({count for _, count in parts})
    if len(counts) > 1:
        raise DataError(f"{directory}: parts of {counts[0]} and of {counts[1]} are mixed; keep one set")
    there = {index for index, _ in parts}
    missing = next((index for index in range(1, counts[0] + 1) if index not in there), None) if parts else None
    if missing:
        raise DataError(f"{directory}: incomplete, part {missing} of {counts[0]} is missing; run that --shard first")


def input_refs(files: Sequence[Path]) -> tuple[InputRef, ...]:
    """What an output records of its inputs. Raises DataError for a file that does not match its own checksum."""
    return tuple(InputRef(file.name, checked_sha256(file)) for file in files)


# ----------------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever pyarrow raises over a bad file into a DataError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: not a Parquet file, or damaged ({reason})") from error


def _open(path: Path) -> pq.ParquetFile:
    with _reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True)


def read_metadata(path: Path) -> Metadata:
    """The `ireasoner` metadata of one file. Raises DataError when it has none or it cannot be read."""
    with _open(path) as file:
        text = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise DataError(f"{path}: no `ireasoner` metadata; it was not written by a stage of this tool")
    return Metadata.from_json(text, str(path))


def schema_of(path: Path) -> pa.Schema:
    with _open(path) as file:
        return file.schema_arrow


def row_count(path: Path) -> int:
    with _open(path) as file:
        return file.metadata.num_rows


def read_batches(
    path: Path, schema: pa.Schema, optional: pa.Schema | None = None, row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of bounded size with the columns of `schema`, cast to its types; an `optional` column that the file
    lacks is null. All rows, or those of some `row_groups`. Raises DataError for missing columns, wrong types, damage,
    or rows too large for the memory."""
    with _open(path) as file:
        present = file.schema_arrow.names
        if twice := [name for name in schema.names if present.count(name) > 1]:
            raise DataError(f"{path}: has the column {twice[0]} more than once")
        if missing := [name for name in schema.names if name not in present]:
            raise DataError(f"{path}: lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
        wanted = pa.schema([*schema, *(optional or ())])
        columns = [name for name in wanted.names if name in present]
        for group in range(file.metadata.num_row_groups) if row_groups is None else row_groups:
            for batch in _row_group_batches(path, file, group, columns):
                yield pa.RecordBatch.from_arrays(
                    [_cast(batch, column, path) for column in wanted], schema=wanted.remove_metadata()
                )


def _row_group_batches(path: Path, file: Any, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
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
        return values.cast(column.type)
    except pa.ArrowException as error:
        raise DataError(f"{path}: column {column.name} is {values.type}, and must be {column.type}") from error


def is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _cast_images(values: pa.Array) -> pa.Array:
    """Encoded images as structs of bytes and path, whichever binary and string types another tool chose."""
    if is_bytes(values.type):
        parts = [values, pa.nulls(len(values), pa.string())]
    else:
        parts = [pc.struct_field(values, name) for name in ("bytes", "path")]
    cast = [part.cast(field.type) for part, field in zip(parts, IMAGE, strict=True)]
    return pa.StructArray.from_arrays(cast, fields=list(IMAGE), mask=values.is_null())


def read_rows(path: Path, column: pa.Field, rows: set[int]) -> Iterator[tuple[int, Any]]:
    """The values of one column in the given rows, reading only the row groups that hold them."""
    with _open(path) as file:
        first = 0
        for index in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(index).num_rows
            if not rows.isdisjoint(range(first, first + count)):
                row = first
                for batch in _row_group_batches(path, file, index, [column.name]):
                    values = _cast(batch, column, path)
                    yield from ((row + i, values[i].as_py()) for i in range(len(values)) if row + i in rows)
                    row += len(values)
            first += count


def whole_groups(files: Iterable[Path], schema: pa.Schema, optional: pa.Schema | None = None) -> Iterator[pa.Table]:
    """The groups of trajectory files, a table each, in file order. For looking only: nothing is checked but
    damage and columns, and `optional` ones may be missing; what a stage reads goes through `Shards`."""
    for file in files:
        yield from _split_groups(file, read_batches(file, schema, optional))


def select_groups(
    path: Path, wanted: Callable[[str], bool], schema: pa.Schema, optional: pa.Schema | None = None
) -> Iterator[pa.Table]:
    """The groups of a file whose group_id is wanted, a table each, decoding only the row groups that hold one."""
    column = pa.schema([("group_id", pa.string())])
    with _open(path) as file:
        count = file.num_row_groups
    for index in range(count):
        ids = pa.chunked_array(
            [batch["group_id"] for batch in read_batches(path, column, row_groups=[index])], pa.string()
        )
        if any(group is not None and wanted(group) for group in pc.unique(ids).to_pylist()):
            for group in _split_groups(path, read_batches(path, schema, optional, [index])):
                if wanted(group["group_id"][0].as_py() or ""):
                    yield group


class Shards:
    """The trajectory shards that are a stage's input: one table, whichever files hold it.

    Groups come whole and in the order of group_index.
    """

    def __init__(self, paths: Sequence[Path], stage: str, schema: pa.Schema) -> None:
        """Opens and checks `paths`, which must have been written by `stage`.

        Raises UsageError for missing paths; DataError for damage, another stage or format, parts made
        differently, a group in two places or a group_index twice.
        """
        self.schema = schema
        self.files = input_files(paths)
        self.inputs = input_refs(self.files)
        self.metadata = read_metadata(self.files[0])
        if self.metadata.stage != stage:
            raise DataError(f"{self.files[0]}: written by `{self.metadata.stage}`; this reads what `{stage}` writes")
        for file in self.files[1:]:
            if different := differences(self.metadata, read_metadata(file), ignore=("inputs",)):
                raise DataError(f"{file} does not belong with {self.files[0]}: {different[0]}")
        self._ascending, self.group_count = self._check_groups()

    def _check_groups(self) -> tuple[bool, int]:
        """Whether the groups of every file ascend, and how many groups there are."""
        key = pa.schema([self.schema.field(name) for name in ("group_id", "group_index", "role", "sample_index")])
        where: dict[int, str] = {}
        seen: set[str] = set()
        ascending, last_index = True, -1
        for file in self.files:
            previous: tuple[str | None, int] = (None, -1)  # a group lives in one file
            highest = -1
            for batch in read_batches(file, key):
                for group, index, role, sample in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    if group is None or index is None or sample is None or role not in (PROPOSER, SOLVER):
                        raise DataError(f"{file}: a row of group {group} lacks its group_index, role or sample_index")
                    if index < 0 or (group == previous[0] and index != last_index):
                        raise DataError(f"{file}: group {group} has a row with group_index {index}")
                    if group != previous[0]:
                        if group in seen or index in where:
                            twice = f"group_id {group}" if group in seen else f"group_index {index}"
                            raise DataError(f"{file}: {twice} comes twice (also in {where.get(index, 'these shards')})")
                        if role != PROPOSER:
                            raise DataError(f"{file}: group {group} does not begin with its proposer row")
                        seen.add(group)
                        where[index] = str(file)
                        ascending, last_index = ascending and index > highest, index
                        highest = max(highest, index)
                    elif role != SOLVER or sample <= previous[1]:
                        raise DataError(f"{file}: the solver rows of group {group} are not in order of sample_index")
                    previous = (group, sample if role == SOLVER else -1)
        return ascending, len(where)

    def tables(self, size: int, first: int = 0, last: int | None = None) -> Iterator[pa.Table]:
        """Tables of `size` whole groups each (fewer where they are large, and at the end), from group `first` up to
        `last`."""
        last = self.group_count if last is None else last
        pending: list[pa.Table] = []
        pending_bytes = 0
        for group in islice(self._whole_groups(), first, last):
            pending.append(group)
            pending_bytes += group.nbytes
            if len(pending) == size or pending_bytes > CHUNK_BYTES:
                yield pa.concat_tables(pending).combine_chunks()
                pending, pending_bytes = [], 0
        if pending:
            yield pa.concat_tables(pending).combine_chunks()

    def groups(self, first: int = 0, last: int | None = None) -> Iterator[list[dict[str, Any]]]:
        """The rows of each group as dicts: the proposer's, then the solver's."""
        for table in self.tables(1, first, last):
            yield table.to_pylist()

    def _whole_groups(self) -> Iterator[pa.Table]:
        by_file = [_split_groups(file, read_batches(file, self.schema)) for file in self.files]
        if self._ascending:
            yield from heapq.merge(*by_file, key=_group_index)
        else:
            yield from sorted(_within_memory(self.files, by_file), key=_group_index)


class Rows:
    """Rows of one or several files, as dicts, in file order; for tables that are not trajectories."""

    def __init__(self, paths: Sequence[Path], schema: pa.Schema, optional: pa.Schema | None = None) -> None:
        """Raises UsageError for missing paths, DataError for damage or columns that do not fit."""
        self.files = input_files(paths)
        self.inputs = input_refs(self.files)
        self._schema, self._optional = schema, optional

    def __len__(self) -> int:
        return sum(row_count(file) for file in self.files)

    def most_images(self) -> int:
        """How many `images` the fullest row has, at least 1, from their column alone."""
        column = pa.schema([("images", pa.list_(IMAGE))])
        lengths = (
            pc.max(pc.list_value_length(batch.column(0))).as_py()
            for file in self.files
            for batch in read_batches(file, pa.schema([]), column)
        )
        return max((length for length in lengths if length), default=1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for file in self.files:
            for batch in read_batches(file, self._schema, self._optional):
                yield from batch.to_pylist()


class Records:
    """Rows of another tool's files, as dicts of the wanted columns in whatever types they have, in file order."""

    def __init__(self, files: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Raises UsageError for missing files, DataError for damage or when one of `columns` is missing."""
        self.files = input_files(files)
        self.inputs = input_refs(self.files)
        self._columns = [*columns, *optional]
        for file in self.files:
            present = schema_of(file).names
            if missing := [name for name in columns if name not in present]:
                raise DataError(f"{file}: lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")

    def __len__(self) -> int:
        return sum(row_count(file) for file in self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Optional columns that a file lacks are None."""
        for file in self.files:
            with _open(file) as opened:
                present = [name for name in self._columns if name in opened.schema_arrow.names]
                for group in range(opened.metadata.num_row_groups):
                    for batch in _row_group_batches(file, opened, group, present):
                        for row in batch.to_pylist():
                            yield {name: row.get(name) for name in self._columns}


def _group_index(group: pa.Table) -> int:
    return group["group_index"][0].as_py()


def _within_memory(files: Sequence[Path], by_file: Iterable[Iterable[pa.Table]]) -> list[pa.Table]:
    """All groups of files in which they are in no order, as long as they fit."""
    groups: list[pa.Table] = []
    size = 0
    for file, some in zip(files, by_file, strict=True):
        for group in some:
            size += group.nbytes
            if size > LIMIT_BYTES:
                raise DataError(f"{file}: too large to be put in the order of group_index; sort its rows by it first")
            groups.append(group)
    return groups


def _split_groups(file: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    carry: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        if carry is not None:
            if carry.nbytes > LIMIT_BYTES:
                raise DataError(f"{file}: a single group takes more than {LIMIT_BYTES >> 20} MiB of memory")
            table = pa.concat_tables([carry, table])
        ids = table["group_id"].combine_chunks()
        changes = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False).nonzero()[0] + 1
        starts = [0, *changes.tolist()]
        for start, end in pairwise(starts):
            yield table.slice(start, end - start)
        carry = table.slice(starts[-1])
    if carry is not None and carry.num_rows:
        yield carry


def differences(old: Metadata, new: Metadata, ignore: Sequence[str] = ()) -> list[str]:
    """What sets two files' metadata apart, one phrase each: `params.alpha: 0.7 → 1.0`. The version does not."""
    ignored = {"version", *ignore}
    if old.model.sha256 is not None and old.model.sha256 == new.model.sha256:
        ignored.add("model")  # the same files, wherever they lie
    before, after = (
        {name: value for name, value in _flat_inputs(meta).items() if name not in ignored} for meta in (old, new)
    )
    return list(_differences(before, after, ""))


def _flat_inputs(metadata: Metadata) -> dict[str, Any]:
    fields = json.loads(metadata.to_json())
    fields["inputs"] = {
        f"{entry.name}#{place}" if place else entry.name: entry.sha256[:12]
        for place, entry in enumerate(metadata.inputs)
    }
    return fields


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {_brief(old)} → {_brief(new)}"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


# ----------------------------------------------------------------------------------------------- writing


def sync_directory(path: Path) -> None:
    """Makes renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Puts a new folder, its files and its folders on disk, so that a rename can make it visible."""
    for entry in sorted(folder.iterdir()):
        sync_tree(entry) if entry.is_dir() else sync_file(entry)
    sync_directory(folder)


def partial_directory(output: Path) -> Path:
    """Where the unfinished parts of `output` live."""
    return output.with_name(f".{output.name}.partial")


@contextlib.contextmanager
def writing(output: Path, force: bool) -> Iterator[Path]:
    """Holds the hidden partial directory of `output` for this process; yields it.

    Raises UsageError when another process is writing the same output, or has since it was looked for; EngineError
    when the place cannot be written to, or no longer can.
    """
    partial = partial_directory(output)
    folder_is_new = not output.parent.exists()
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial / "lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise EngineError(f"{output}: cannot be written ({error.strerror or error})") from error
    with open(descriptor) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{output}: another process is writing it") from error
        try:
            # Whoever held the lock may have finished since we looked, and taken the directory away with it.
            if not _is_at(lock, partial / "lock") or (output.exists() and not force):
                raise UsageError(f"{output}: another process has just written it; run the command again")
            yield partial
        except OSError as error:
            raise EngineError(f"{output}: cannot be written ({error.strerror or error})") from error
        finally:
            if partial.is_dir() and [entry.name for entry in partial.iterdir()] == ["lock"]:
                shutil.rmtree(partial)  # nothing was finished that a later run could take up
                if folder_is_new:
                    with contextlib.suppress(OSError):
                        output.parent.rmdir()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def clear_leftovers(output: Path) -> None:
    """Removes what a run that died after its last rename left beside `output`, unless somebody is at work there."""
    if partial_directory(output).exists():
        with contextlib.suppress(UsageError), writing(output, force=True) as partial:
            shutil.rmtree(partial)


def publish_directory(finished: Path, output: Path) -> None:
    """Puts a finished directory in the place of `output`, one that is there aside first; `restore_directory` mends a
    crash between the two renames."""
    old = _old_directory(output)
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.rename(output, old)
    os.rename(finished, output)
    sync_directory(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_directory(output: Path, force: bool) -> None:
    """Puts back what `publish_directory` had set aside when it was cut off, unless somebody is at work there."""
    old = _old_directory(output)
    if old.exists() and not output.exists():
        with contextlib.suppress(UsageError), writing(output, force):
            os.rename(old, output)


def discard_old_directory(output: Path) -> None:
    """Removes what `publish_directory` had set aside, where it was cut off after its last rename."""
    shutil.rmtree(_old_directory(output), ignore_errors=True)


def _old_directory(output: Path) -> Path:
    return output.with_name(f".{output.name}.old")


def is_done(output: Path, metadata: Metadata, force: bool, tidy: bool = True) -> bool:
    """Whether `output` is there, undamaged, and was made from the same inputs with the same parameters; if so, and
    unless `tidy` is off, what interrupted runs have left is cleared away.

    Raises, when `force` is off, UsageError if something else is in its place, DataError if it is damaged.
    """
    for _, count in _parts_of_other_counts(output):
        if not force:
            raise UsageError(f"{output.parent} holds parts of {count}; use --force to replace them")
    if not output.exists() or force:
        return False
    if not output.is_file():
        raise UsageError(f"{output}: in the way, and not a file")
    try:
        checked_sha256(output)
        made = read_metadata(output)
    except DataError as error:
        raise DataError(f"{error}; it stands where the output goes, and --force replaces it") from error
    refuse_differences(f"{output} exists and", made, metadata)
    if tidy:
        clear_leftovers(output)
    return True


def left_over(output: Path, metadata: Metadata, force: bool) -> int:
    """How many groups an `Output` would find done, without touching anything. Raises as it does."""
    partial, chunks, done = partial_directory(output), 0, 0
    for file in sorted(partial.glob("chunk-*.parquet")):
        if file.name != Output.chunk_name(chunks) or not is_usable(file, metadata, force):
            break
        chunks, done = chunks + 1, done + int(schema_of(file).metadata[GROUPS_KEY])
    aside = partial / ASIDE
    if aside.exists() and is_usable(aside, metadata, force):
        notes = schema_of(aside).metadata
        done += len(json.loads(notes[ENDS_KEY])) if int(notes[CHUNKS_BEFORE_KEY]) == chunks else 0
    return done


def plan(output: Path, metadata: Metadata, unit: str, total: int, done: int) -> dict[str, Any]:
    """What a dry run says, as a Result's summary: `done` of the `total` groups or questions are there already."""
    names = ", ".join(ref.name for ref in metadata.inputs[:SHOWN_INPUTS])
    more = f" and {len(metadata.inputs) - SHOWN_INPUTS} more" if len(metadata.inputs) > SHOWN_INPUTS else ""
    return {
        "would_read": names + more,
        "would_replace" if output.exists() else "would_write": str(output),
        unit: total,
        f"{unit}_taken_up": done,
    }


def is_usable(file: Path, metadata: Metadata, force: bool) -> bool:
    """Whether what an interrupted run left in `file` is undamaged and was made as `metadata` says. Raises UsageError
    where it was made differently, unless `force` gives that up."""
    try:
        checked_sha256(file)
        made = read_metadata(file)
    except DataError:
        return False  # what is damaged is made again
    if not force:
        refuse_differences(f"what an interrupted run left in {file.parent}", made, metadata)
    return not differences(made, metadata)


def refuse_differences(what: str, made: Metadata, wanted: Metadata) -> None:
    """Raises UsageError, naming what differs, unless `what`, made as `made`, is what is wanted."""
    if different := differences(made, wanted):
        shown = "; ".join(different[:SHOWN_DIFFERENCES])
        more = f"; and {len(different) - SHOWN_DIFFERENCES} more" if len(different) > SHOWN_DIFFERENCES else ""
        raise UsageError(f"{what} was made differently ({shown}{more}); use --force to replace it, or another --out")


def _parts_of_other_counts(output: Path) -> Iterator[tuple[Path, str]]:
    """Parts beside `output` that would make the set unreadable, with their counts."""
    own = PART.fullmatch(output.name)
    for other in output.parent.glob("part-*.parquet") if own else ():
        match = PART.fullmatch(other.name)
        if own and match and match[2] != own[2]:
            yield other, match[2]


class Output:
    """A trajectory file in the making. Use as a context manager and `write` group after group.

    Every GROUPS_PER_CHUNK groups, or CHUNK_BYTES, a chunk file is finished in the partial directory. Leaving the
    block without an exception joins the chunks, one row group each, and renames the file into place; leaving it with
    one puts aside the groups that make no whole chunk yet. `done` says how many groups an earlier run with the same
    metadata left there, for the stage to skip; so the bytes do not depend on interruptions.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        metadata: Metadata,
        force: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        """`force` gives up what an earlier run left there with other metadata, which is otherwise a UsageError."""
        self.path, self.done = path, 0
        self.schema = schema.with_metadata({METADATA_KEY: metadata.to_json().encode(), **_image_feature(schema)})
        self._metadata, self._force, self._progress = metadata, force, progress
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._partial = self._stack.enter_context(writing(self.path, self._force))
        try:
            self._chunks = self._usable_chunks()
            self._pending = self._put_aside()
            self._pending_bytes = sum(table.nbytes for table in self._pending)
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        self.done += len(self._pending)
        if self.done:
            self._progress.say(
                f"{self.path}: an interrupted run with the same inputs and parameters is taken up where it stopped"
            )
        return self

    def _usable_chunks(self) -> list[Path]:
        """The unbroken run of undamaged chunks; anything else is cleared away."""
        usable: list[Path] = []
        for file in sorted(self._partial.glob("chunk-*.parquet")):
            if file.name == self.chunk_name(len(usable)) and is_usable(file, self._metadata, self._force):
                usable.append(file)
                self.done += int(schema_of(file).metadata[GROUPS_KEY])
            else:
                file.unlink()
        return usable

    @staticmethod
    def chunk_name(index: int) -> str:
        return f"chunk-{index:08d}.parquet"

    def _put_aside(self) -> list[pa.Table]:
        """The groups after the last chunk that an interrupted run put aside, a table each."""
        file = self._partial / ASIDE
        if not file.exists() or not is_usable(file, self._metadata, self._force):
            return []
        notes = schema_of(file).metadata
        if int(notes[CHUNKS_BEFORE_KEY]) != len(self._chunks):
            return []  # from before the last chunk was finished
        rows = pq.read_table(file, page_checksum_verification=True).cast(self.schema)
        return [rows.slice(start, end - start) for start, end in pairwise([0, *json.loads(notes[ENDS_KEY])])]

    def write(self, group: list[dict[str, Any]] | pa.Table) -> None:
        """Adds one group (a table may hold several, and then is a chunk by itself)."""
        table = group if isinstance(group, pa.Table) else pa.Table.from_pylist(group, self.schema)
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        if isinstance(group, pa.Table):
            self._flush(len(group["group_id"].unique()))
        elif len(self._pending) == GROUPS_PER_CHUNK or self._pending_bytes > CHUNK_BYTES:
            self._flush(len(self._pending))

    def _flush(self, groups: int) -> None:
        target = self._partial / self.chunk_name(len(self._chunks))
        self._write_file(target, [pa.concat_tables(self._pending)], {GROUPS_KEY: str(groups)})
        self._chunks.append(target)
        self._pending, self._pending_bytes = [], 0

    def _write_file(self, target: Path, tables: Iterable[pa.Table], more: Mapping[bytes, str] | None = None) -> None:
        unfinished = self._partial / f"{target.name}.unfinished"
        schema = self.schema.with_metadata({**self.schema.metadata, **(more or {})})
        with pq.ParquetWriter(
            unfinished,
            schema,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=_dictionary_columns(schema),
        ) as writer:
            for table in tables:
                writer.write_table(table.cast(schema))
        seal(unfinished)
        sync_file(unfinished)
        os.replace(unfinished, target)
        sync_directory(target.parent)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # a full disk takes this no more than the rest
                self._set_aside()
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            if self._pending:
                self._flush(len(self._pending))
            whole = (pq.read_table(file, page_checksum_verification=True) for file in self._chunks)
            self._write_file(self.path, whole)
            shutil.rmtree(self._partial, ignore_errors=True)
            for other, _ in _parts_of_other_counts(self.path):
                other.unlink()  # is_done() has asked for --force

    def _set_aside(self) -> None:
        if self._pending:
            ends = list(accumulate(group.num_rows for group in self._pending))
            notes = {CHUNKS_BEFORE_KEY: str(len(self._chunks)), ENDS_KEY: json.dumps(ends)}
            self._write_file(self._partial / ASIDE, [pa.concat_tables(self._pending)], notes)


def _image_feature(schema: pa.Schema) -> dict[bytes, bytes]:
    """The metadata by which Hugging Face datasets shows the image column as pictures."""
    features = {column.name: {"_type": "Image"} for column in schema if column.type == IMAGE}
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


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a small table in one go, checksummed and on disk, without the rename: for files inside a folder
    that itself appears by one."""
    table = table.replace_schema_metadata(_image_feature(table.schema))
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    seal(path)
    sync_file(path)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A whole small file. Raises DataError for missing columns or damage."""
    return pa.Table.from_batches(read_batches(path, schema), schema=schema)
