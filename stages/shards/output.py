"""A trajectory file in the making: what an interrupted stage has done stays, and is taken up."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from stages.contract import METADATA_KEY, Metadata, gone_on
from stages.progress import SILENT, Progress
from stages.shards.durable import partial_directory, parts_directory, sync_directory, writing
from stages.shards.locating import parts_of_other_counts
from stages.shards.parquet import image_feature, read_metadata, read_own, schema_of, write_file
from stages.shards.reuse import is_usable

# Finished groups that become one chunk file, and one row group of the output; fewer where they are large.
GROUPS_PER_CHUNK = 64
CHUNK_BYTES = 64 << 20
# In the metadata of unfinished files alone: how many groups a chunk holds; how many chunks come before what was put
# aside, where each of its groups ends, and how large they were in memory, which differs by a little once read again.
GROUPS_KEY, CHUNKS_BEFORE_KEY, ENDS_KEY, BYTES_KEY = b"groups", b"chunks_before", b"group_ends", b"group_bytes"
ASIDE = "aside.parquet"


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
        self.schema = schema.with_metadata({METADATA_KEY: metadata.to_json().encode(), **image_feature(schema)})
        self._metadata, self._force, self._progress = metadata, force, progress
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._partial = self._stack.enter_context(writing(self.path, self._force))
        try:
            self._chunks = self._usable_chunks()
            self._pending = self._put_aside()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        self.done += len(self._pending)
        if self.done:
            self._progress.say(
                f"{self.path}: an interrupted run with the same inputs and parameters is taken up where it stopped"
            )
        return self

    def made_on(self, device: dict[str, Any]) -> None:
        """Records what the rows are computed on, which is known once the model is loaded, and what those were that are
        taken up. Before the first `write`."""
        left = [*self._chunks, *([self._partial / ASIDE] if self._pending else [])]
        begun = read_metadata(left[-1]).device if left else {}
        metadata = replace(self._metadata, device=gone_on(begun, device))
        self.schema = self.schema.with_metadata({**self.schema.metadata, METADATA_KEY: metadata.to_json().encode()})

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
        self._pending_bytes = int(notes[BYTES_KEY])
        rows = read_own(file).cast(self.schema)
        return [rows.slice(start, end - start) for start, end in pairwise([0, *json.loads(notes[ENDS_KEY])])]

    def taken_up(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of the groups that an earlier run left, for a stage to count them, too. Before the first
        `write`."""
        for chunk in self._chunks:
            yield read_own(chunk, columns)
        for group in self._pending:
            yield group.select(list(columns))

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
        self._pending, self._pending_bytes = [], 0  # first: interrupted here, a chunk that is there is found again
        self._chunks.append(target)

    def _write_file(self, target: Path, tables: Iterable[pa.Table], more: Mapping[bytes, str] | None = None) -> None:
        unfinished = self._partial / f"{target.name}.unfinished"
        write_file(unfinished, self.schema.with_metadata({**self.schema.metadata, **(more or {})}), tables)
        os.replace(unfinished, target)
        sync_directory(target.parent)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            self._set_aside()
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            try:
                self._finish()
            except BaseException:
                self._set_aside()
                raise

    def _finish(self) -> None:
        if self._pending:
            self._flush(len(self._pending))
        self._write_file(self.path, map(read_own, self._chunks))
        for left in (self._partial, parts_directory(self.path)):
            shutil.rmtree(left, ignore_errors=True)
        for other, _ in parts_of_other_counts(self.path):
            other.unlink()  # is_done() has asked for --force

    def _set_aside(self) -> None:
        if not self._pending:
            return
        ends = list(accumulate(group.num_rows for group in self._pending))
        notes = {
            CHUNKS_BEFORE_KEY: str(len(self._chunks)),
            ENDS_KEY: json.dumps(ends),
            BYTES_KEY: str(self._pending_bytes),
        }
        with contextlib.suppress(OSError):  # a full disk takes this no more than the rest
            self._write_file(self._partial / ASIDE, [pa.concat_tables(self._pending)], notes)


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
