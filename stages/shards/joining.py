"""Parts put together into the file that a stage would have written by itself."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from stages.contract import SCHEMAS, SOLVER, Row, gone_on
from stages.errors import DataError
from stages.shards.locating import input_files, input_refs
from stages.shards.output import Output
from stages.shards.parquet import read_batches, read_metadata, row_count
from stages.shards.reuse import differences


def join(folder: Path, output: Path, force: bool = False) -> None:
    """Writes the rows of the parts in `folder` as `output`: byte for byte what one process writes that does all.
    Interrupted, it can be repeated.

    Raises DataError where a part is missing, damaged, or made differently from the others; as `Output` does.
    """
    files = input_files([folder])
    input_refs(files)  # undamaged
    # A part may have no rows, where there are more parts than groups, and then nothing was sampled for it.
    first = next(filter(row_count, files), files[0])
    metadata = read_metadata(first)
    for file in files:
        part = read_metadata(file)
        if different := differences(part, metadata):
            raise DataError(f"{file} does not belong with {first}: {different[0]}")
        if row_count(file):
            metadata = replace(metadata, device=gone_on(part.device, metadata.device))
    schema = SCHEMAS[metadata.stage]
    rows = chain.from_iterable(batch.to_pylist() for file in files for batch in read_batches(file, schema))
    with Output(output, schema, metadata, force) as whole:
        for group in islice(_groups(rows), whole.done, None):
            whole.write(group)


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """As they were written: a group begins with its Proposer's row, a question of a benchmark with its first sample."""
    group: list[Row] = []
    for row in rows:
        if group and row["sample_index"] == 0 and row.get("role") != SOLVER:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
