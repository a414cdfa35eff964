"""Rows and groups of rows, of one file or many."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import ANSWER, IMAGE, PROPOSER, SOLVER
from stages.errors import DataError
from stages.shards.locating import input_files, input_refs
from stages.shards.pages import LIMIT_BYTES
from stages.shards.parquet import read_batches, read_columns, read_metadata, row_count, row_group_count, schema_of
from stages.shards.reuse import differences

TABLE_BYTES = 64 << 20  # of groups that come as one table

IMAGES = pa.field("images", pa.list_(IMAGE))
ORDER = ("group_id", "group_index", "role", "pass", "sample_index")


def _check_folders(paths: Sequence[Path], files: Sequence[Path], stages: Sequence[str]) -> None:
    """Raises DataError where one of `paths` is a folder whose `files` are of several stages, such as an iteration's:
    one of them is meant."""
    for path in filter(Path.is_dir, paths):
        there = {file: _stage_of(file) for file in files if file.parent == path}
        if len({*there.values()}) > 1:
            fitting = next((file for file, stage in there.items() if stage in stages), next(iter(there)))
            raise DataError(f"{path}: holds files of several stages; name the one that is meant, such as {fitting}")


def _stage_of(file: Path) -> str | None:
    with suppress(DataError):
        return read_metadata(file).stage
    return None


class Shards:
    """The trajectory shards that are a stage's input: one table, whichever files hold it.

    Groups come whole and in the order of group_index.
    """

    def __init__(self, paths: Sequence[Path], stage: str | Sequence[str], schema: pa.Schema) -> None:
        """Opens and checks `paths`, which must have been written by `stage`, or by one of several.

        Raises UsageError for missing paths; DataError for damage, another stage or format, parts made
        differently, a group in two places or a group_index twice.
        """
        self.schema = schema
        stages = [stage] if isinstance(stage, str) else stage
        self.files = input_files(paths)
        _check_folders(paths, self.files, stages)
        self.inputs = input_refs(self.files)
        self.metadata = read_metadata(self.files[0])
        if self.metadata.stage not in stages:
            wanted = " or ".join(f"`{each}`" for each in stages)
            raise DataError(f"{self.files[0]}: written by `{self.metadata.stage}`; this reads what {wanted} writes")
        for file in self.files[1:]:
            if different := differences(self.metadata, read_metadata(file), ignore=("inputs",)):
                raise DataError(f"{file} does not belong with {self.files[0]}: {different[0]}")
        self._ascending, self.group_count = self._check_groups()

    def _check_groups(self) -> tuple[bool, int]:
        """Whether the groups of every file ascend, and how many groups there are."""
        key = pa.schema([self.schema.field(name) for name in ORDER])
        where: dict[int, str] = {}
        seen: set[str] = set()
        ascending, last_index = True, -1
        for file in self.files:
            previous: tuple[str | None, int] = (None, -1)  # a group lives in one file
            passes: list[str] = []  # of the group, the last the one that goes on
            highest = -1
            for batch in read_batches(file, key):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                for group, index, role, of_pass, sample in rows:
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
                        passes = []
                    elif role == SOLVER and (of_pass or ANSWER) not in passes:
                        passes.append(of_pass or ANSWER)
                    elif role != SOLVER or sample <= previous[1] or (of_pass or ANSWER) != passes[-1]:
                        raise DataError(
                            f"{file}: the solver rows of group {group} are not in order of pass and sample_index"
                        )
                    previous = (group, sample if role == SOLVER else -1)
        return ascending, len(where)

    def passes(self) -> list[str]:
        """The names of the Solver's passes, in the order in which they come, from their columns alone."""
        key = pa.schema([self.schema.field(name) for name in ("role", "pass")])
        found: dict[str, None] = {}
        for batch in (batch for file in self.files for batch in read_batches(file, key)):
            solvers = batch.filter(pc.equal(batch["role"], SOLVER))
            found |= dict.fromkeys(pc.unique(pc.fill_null(solvers["pass"], ANSWER)).to_pylist())
        return list(found)

    def most_images(self) -> int:
        """How many images the fullest group has, at least 1, from their column alone."""
        return most_in_a_list(self.files, IMAGES)

    def tables(self, size: int, places: range | None = None) -> Iterator[pa.Table]:
        """Tables of `size` whole groups each (fewer where they are large, and at the end): of all groups, or of those
        at consecutive `places`."""
        first, last = (places.start, places.stop) if places is not None else (0, None)
        pending: list[pa.Table] = []
        pending_bytes = 0
        for group in islice(self._whole_groups(), first, last):
            pending.append(group)
            pending_bytes += group.nbytes
            if len(pending) == size or pending_bytes > TABLE_BYTES:
                yield pa.concat_tables(pending).combine_chunks()
                pending, pending_bytes = [], 0
        if pending:
            yield pa.concat_tables(pending).combine_chunks()

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some columns of all rows, in file order."""
        columns = pa.schema([self.schema.field(name) for name in names])
        for file in self.files:
            for batch in read_batches(file, columns):
                yield from batch.to_pylist()

    def groups(self, places: range | None = None) -> Iterator[list[dict[str, Any]]]:
        """The rows of each group as dicts: the proposer's, then the solver's."""
        for table in self.tables(1, places):
            yield table.to_pylist()

    def _whole_groups(self) -> Iterator[pa.Table]:
        by_file = [_split_groups(file, read_batches(file, self.schema)) for file in self.files]
        if self._ascending:
            yield from heapq.merge(*by_file, key=_group_index)
        else:
            yield from sorted(_within_memory(self.files, by_file), key=_group_index)


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
    for index in range(row_group_count(path)):
        ids = pa.chunked_array(
            [batch["group_id"] for batch in read_batches(path, column, row_groups=[index])], pa.string()
        )
        if any(group is not None and wanted(group) for group in pc.unique(ids).to_pylist()):
            for group in _split_groups(path, read_batches(path, schema, optional, [index])):
                if wanted(group["group_id"][0].as_py() or ""):
                    yield group


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


def most_in_a_list(files: Sequence[Path], column: pa.Field) -> int:
    """How many entries the longest list of a column has, at least 1; a file may lack it."""
    lengths = (
        pc.max(pc.list_value_length(batch.column(0))).as_py()
        for file in files
        for batch in read_batches(file, pa.schema([]), pa.schema([column]))
    )
    return max((length for length in lengths if length), default=1)


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
        return most_in_a_list(self.files, IMAGES)

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
            present = schema_of(file).names
            for batch in read_columns(file, [name for name in self._columns if name in present]):
                for row in batch.to_pylist():
                    yield {name: row.get(name) for name in self._columns}
