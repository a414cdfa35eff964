"""`update`: learning from a scored shard.

    scored.parquet + policy ──▶ the next policy/

Goes through the groups in the order of group_index. Every `groups_per_step` groups are one optimizer step of the
Solver; after it, each of these groups whose training step is a multiple of `proposer_every` is one of the
Proposer, on its own row. Interrupted and run again, it goes on from its last checkpoint and ends with the same
policy, byte for byte.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from stages import interrupts, shards
from stages.ahead import ahead
from stages.contract import PROPOSER, SCORED, SOLVER, Metadata
from stages.errors import DataError, UsageError
from stages.learning import checkpoints
from stages.learning.batches import Batch, GroupReader
from stages.learning.learner import Learner, UpdateParams
from stages.learning.ranks import Ranks
from stages.models.finding import locate_model
from stages.policy import (
    STATE_FILE,
    Policy,
    PolicyState,
    check_model,
    check_whole,
    read_state,
    recorded_policy,
)
from stages.progress import SILENT, Progress
from stages.result import Result

CHECKPOINT_SECONDS = 60.0


def update(
    inputs: Sequence[Path],
    params: UpdateParams,
    policy: Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    gradient_checkpointing: bool = False,
    dry_run: bool = False,
) -> Result:
    """Writes the next policy directory; `policy` is the one the trajectories were sampled from. A `dry_run` only says
    what would be done.

    Under torchrun all its processes call this, and spread the groups of each step over themselves.
    Raises UsageError when the policy is missing or would be written over, DataError for shards, images or a
    policy that do not fit, EngineError when the model cannot be loaded.
    """
    started = time.monotonic()
    ranks = Ranks()
    if ranks.size > params.groups_per_step:
        raise UsageError(
            f"{ranks.size} processes cannot share steps of {params.groups_per_step}; "
            f"use --groups-per-step {ranks.size} or more, or fewer processes"
        )
    scored = shards.Shards(inputs, "score", SCORED)
    recorded = scored.metadata
    start = recorded_policy(policy, recorded.policy, scored.files[0])
    checkpoint = locate_model(model, recorded.model)
    check_model(start, checkpoint.ref)
    output = out or inputs[0].parent / "policy"
    _check_place(output, start)
    lineage = Metadata(
        stage="update",
        params={**asdict(params), "score": recorded.params},
        seed=recorded.seed,
        inputs=scored.inputs,
        model=checkpoint.ref,
        policy=start.ref,
    )
    total = min(scored.group_count, params.limit or scored.group_count)
    if dry_run:
        if _is_made(output, lineage, force):
            return Result(output, reused=True)
        done = checkpoints.left_over(shards.partial_directory(output), lineage, force, start.ref.step)
        return Result(output, summary=shards.plan(output, lineage, "groups", total, done))
    with ranks:
        if ranks.from_first(ranks.first and _is_done(output, lineage, force)):
            return Result(output, reused=True, summary={"step": read_state(output).step})
        if not ranks.first:
            progress = SILENT

        place = shards.writing(output, force) if ranks.first else nullcontext(shards.partial_directory(output))
        with place as partial:
            with progress.busy("loading the model"):
                learner = Learner(checkpoint, params, lineage.seed, gradient_checkpointing, ranks)
                step, metrics = checkpoints.resume(learner, start, partial, lineage, force)
            if metrics:
                progress.say(f"{output}: an interrupted update of the same inputs is taken up at step {step}")
            reader = GroupReader(recorded, checkpoint, start.ref.step, learner)
            first_step: float | None = None
            with (
                progress.track("update", total, "groups") as advance,
                _interruptible(progress) as interrupted,
                contextlib.closing(ahead(reader.batches(islice(scored.groups(), total), after=step))) as batches,
            ):
                saved_at = time.monotonic()
                for batch in batches:
                    if batch.step > step:  # else learned from before an interruption
                        metrics += _learn(learner, batch, progress)
                        first_step = first_step or time.monotonic() - started
                        step = batch.step
                        stop = ranks.any(interrupted())
                        if ranks.first and (stop or time.monotonic() - saved_at >= checkpoint_seconds):
                            checkpoints.save(learner, partial, PolicyState(step, learner.roles, lineage), metrics)
                            saved_at = time.monotonic()
                        if stop:
                            raise KeyboardInterrupt
                    advance(batch.size)
            if ranks.first:
                finished = checkpoints.save(learner, partial, PolicyState(step, learner.roles, lineage), metrics)
                shards.publish_directory(finished, output)
                shutil.rmtree(partial)
    return Result(output, summary=_summary(step, metrics, first_step))


def _interruptible(progress: Progress) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """An optimizer step is finished, and kept, before an interruption takes effect."""
    return interrupts.held_back(lambda: progress.say("stopping after this step; once more to stop at once"))


def _learn(learner: Learner, batch: Batch, progress: Progress) -> list[dict[str, Any]]:
    """The optimizer steps that a batch is due: one of the Solver, then those of the Proposer."""
    rows: list[dict[str, Any]] = []
    if batch.solver:
        rows.append({"step": batch.step, **learner.step(SOLVER, batch.solver)})
        for group in batch.solver:
            learner.observe(SOLVER, group.mean_reward)
    for proposal in batch.proposals:
        if proposal.row:
            rows.append({"step": proposal.step, **learner.step(PROPOSER, [proposal.row])})
        if proposal.reward is not None:
            learner.observe(PROPOSER, proposal.reward)
    for row in rows:
        if not _is_finite(row):
            progress.say(f"step {row['step']}: the {row['role']}'s gradient is not finite; the step was skipped")
    return rows


def _is_finite(row: dict[str, Any]) -> bool:
    """Whether the learner took the step of this row of metrics: it takes none on what is not finite."""
    return all(math.isfinite(row[name]) for name in ("grad_norm", "loss", "kl"))


# ----------------------------------------------------------------------------------------------- on disk


def _check_place(output: Path, start: Policy) -> None:
    """Nothing but a policy may be replaced, and not the one that is being updated."""
    if output.name in ("", "..") or output.suffix == ".parquet":
        raise UsageError(f"{output}: name a folder of its own for the new policy with --out")
    if start.folder and output.resolve() in (start.folder.resolve(), *start.folder.resolve().parents):
        raise UsageError(f"{output} is the policy that is being updated, or holds it; name another folder with --out")
    if output.exists() and not (output / STATE_FILE).is_file():
        raise UsageError(f"{output} is in the way, and no policy; name another folder with --out")


def _is_done(output: Path, lineage: Metadata, force: bool) -> bool:
    shards.restore_directory(output, force)
    if not _is_made(output, lineage, force):
        return False
    shards.clear_leftovers(output)
    shards.discard_old_directory(output)
    return True


def _is_made(output: Path, lineage: Metadata, force: bool) -> bool:
    """Whether the policy is there, whole, and was made so. Raises UsageError or DataError when something else is."""
    if not output.exists() or force:
        return False
    try:
        made = read_state(output)
        check_whole(output, made)
    except DataError as error:
        raise DataError(f"{error}; it stands where the output goes, and --force replaces it") from error
    shards.refuse_differences(f"{output} exists and", made.lineage, lineage)
    return True


def _summary(step: int, metrics: list[dict[str, Any]], first_step: float | None) -> dict[str, float | int]:
    solver = [row for row in metrics if row["role"] == SOLVER]
    summary: dict[str, float | int] = {
        "step": step,
        "solver_updates": len(solver),
        "proposer_updates": len(metrics) - len(solver),
        "skipped_updates": sum(not _is_finite(row) for row in metrics),
    }
    if solver:
        summary |= {"kl": solver[-1]["kl"], "kl_coef": solver[-1]["kl_coef"]}
    if first_step is not None:
        summary["seconds_to_first_step"] = round(first_step, 1)
    return summary
