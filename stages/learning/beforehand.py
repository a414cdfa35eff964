"""What an update reads off the model before its first step, to measure from.

    pairs        log π_ref of their rows; π_ref is the base model, or the policy as the update finds it
    last token   log π_base of it behind each answer, whose mean is the self-reward's c

It stays in a file beside the checkpoints, so that an update that is taken up again measures from the same.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages import shards
from stages.contract import SOLVER, Metadata
from stages.errors import DataError
from stages.learning.batches import Batch
from stages.learning.last_token import LastToken
from stages.learning.learner import Learner
from stages.policy import Policy

FILE = "beforehand"
# A row a group that the Solver learns from: its training step; of its rows in pairs the log π_ref; of those that are
# not cut off the last token's log π_base.
MEASURED = pa.schema([("step", pa.int64()), ("reference", pa.list_(pa.float64())), ("last", pa.list_(pa.float64()))])

Batches = Callable[[], AbstractContextManager[Iterator[Batch]]]


def settle(learner: Learner, start: Policy, batches: Batches, partial: Path, lineage: Metadata, force: bool) -> None:
    """Gives the learner what it measures from: its `references`, and the reference of its `last` token where that is
    NaN. `batches` are all of the update, which begins at `start`.

    Raises UsageError for what another update left in `partial`, unless `force` gives that up, and DataError where
    every answer was cut off, so that none has a last token.
    """
    pairs = learner.params.loss == "dpo"
    unknown = learner.last if learner.last and math.isnan(learner.last.reference) else None
    if not pairs and not unknown:
        return
    file = partial / FILE
    first = learner.ranks.first
    found = _read(file) if first and file.is_file() and shards.is_usable(file, lineage, force) else None
    measured = learner.ranks.from_first(found)
    if measured is None:
        if start.folder:
            learner.load(start.folder)
        with batches() as read:
            measured = [row for batch in read for row in _measured(learner, batch, pairs, unknown)]
        if unknown and measured and not any(row["last"] for row in measured):
            raise DataError("--loss-aux last-token: every completion was cut off; sample with more --max-tokens")
        if first:
            _write(file, measured, lineage)
    learner.references = {row["step"]: row["reference"] for row in measured}
    if unknown:
        values = [value for row in measured for value in row["last"]]
        reference = math.fsum(values) / len(values) if values else None  # an update that learns from no answer has none
        learner.last = None if reference is None else replace(unknown, reference=reference)


def _measured(learner: Learner, batch: Batch, pairs: bool, last: LastToken | None) -> Iterator[dict[str, Any]]:
    """The rows of MEASURED of a batch's groups."""
    groups = batch.solver
    from_start = pairs and learner.params.reference == "start"
    base = learner.readout(None, groups) if last or not from_start else None
    policy = learner.readout(SOLVER, groups) if from_start else base
    for place, group in enumerate(groups):
        at_end = [place for place, right in enumerate(group.right) if right is not None]
        yield {
            "step": group.step,
            "reference": policy.logprob[place].tolist() if pairs and policy else None,
            "last": base.last[place][at_end].tolist() if last and base else None,
        }


def _read(file: Path) -> list[dict[str, Any]]:
    return shards.read_table(file, MEASURED).to_pylist()


def _write(file: Path, measured: list[dict[str, Any]], lineage: Metadata) -> None:
    unfinished = file.with_suffix(".unfinished")
    shards.write_table(unfinished, pa.Table.from_pylist(measured, MEASURED), lineage)
    os.rename(unfinished, file)
    shards.sync_directory(file.parent)
