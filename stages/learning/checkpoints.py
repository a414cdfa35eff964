"""Where an update stands, on disk: whole policy directories among the partial ones, of which the newest counts."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages import shards
from stages.contract import METRICS, Metadata
from stages.errors import DataError
from stages.learning.learner import Learner
from stages.policy import METRICS_FILE, Policy, PolicyState, check_whole, read_state, write_state


def left_over(partial: Path, lineage: Metadata, force: bool, start: int) -> int:
    """How many groups the newest checkpoint of this very update has learned from; they count from step
    `start`."""
    for folder in reversed(_checkpoints(partial)):
        with contextlib.suppress(DataError):
            if state := _own_state(folder, lineage, force):
                return state.step - start
    return 0


def resume(
    learner: Learner, start: Policy, partial: Path, lineage: Metadata, force: bool
) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Takes the learner to the newest checkpoint of this very update, else to the policy it starts from; the step
    reached, the metrics so far, and the device that these were made on. Raises UsageError for the checkpoints of
    another update, which `force` gives up."""
    found: tuple[Path, list[dict[str, Any]], dict[str, Any]] | None = None
    for folder in reversed(_checkpoints(partial)) if learner.ranks.first else ():
        with contextlib.suppress(DataError):  # a damaged checkpoint is as good as none
            if state := _own_state(folder, lineage, force):
                check_whole(folder, state)
                metrics = shards.read_table(folder / METRICS_FILE, METRICS).to_pylist()
                learner.load(folder)
                found = folder, metrics, state.lineage.device
                break
        shutil.rmtree(folder)
    folder, metrics, device = learner.ranks.from_first(found or (start.folder, [], {}))
    return learner.load(folder).step if folder else 0, metrics, device


def save(learner: Learner, partial: Path, state: PolicyState, metrics: list[dict[str, Any]]) -> Path:
    """A whole policy directory among the partial ones; the older checkpoints go."""
    earlier = _checkpoints(partial)
    unfinished = partial / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    learner.save(unfinished)
    shards.write_table(unfinished / METRICS_FILE, pa.Table.from_pylist(metrics, METRICS))
    write_state(unfinished, state)
    shards.sync_tree(unfinished)
    folder = partial / f"step-{state.step:012d}"
    if folder in earlier:  # saved already, at the end of an interrupted run
        shutil.rmtree(unfinished)
        return folder
    os.rename(unfinished, folder)
    shards.sync_directory(partial)
    for old in earlier:
        shutil.rmtree(old)
    return folder


def _checkpoints(partial: Path) -> list[Path]:
    """Oldest first."""
    return sorted(partial.glob("step-????????????"))


def _own_state(folder: Path, lineage: Metadata, force: bool) -> PolicyState | None:
    """The state of a checkpoint, None of one of another update. Raises UsageError for that unless `force` gives it up,
    DataError for a damaged one."""
    state = read_state(folder)
    if not force:
        shards.refuse_differences(f"what an interrupted update left in {folder.parent}", state.lineage, lineage)
    return None if shards.differences(state.lineage, lineage) else state
