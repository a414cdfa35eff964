"""`update`: learning from a scored shard.

    scored.parquet + policy ──▶ the next policy/

Goes through the groups in the order of group_index. Every `groups_per_step` groups are one optimizer step of the
Solver; after it, each of these groups whose training step is a multiple of `proposer_every` is one of the
Proposer, on its own row. Interrupted and run again, it goes on from its last checkpoint and ends with the same
policy, byte for byte.
"""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages import images, interrupts, shards
from stages.ahead import ahead
from stages.contract import METRICS, PROPOSER, SCORED, SOLVER, Metadata, Role
from stages.errors import DataError, UsageError
from stages.learning.learner import Learner, TrainingGroup, UpdateParams, forbidden_in
from stages.learning.ranks import Ranks
from stages.models import Model, locate_model
from stages.policy import (
    METRICS_FILE,
    STATE_FILE,
    Policy,
    PolicyState,
    check_model,
    check_whole,
    read_state,
    recorded_policy,
    write_state,
)
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.sampling import Pixels

CHECKPOINT_SECONDS = 60.0
Group = list[dict[str, Any]]


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
        done = _left_over(shards.partial_directory(output), lineage, force, start.ref.step)
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
                step, metrics = _resume(learner, start, partial, lineage, force)
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
                            _save(learner, partial, PolicyState(step, learner.roles, lineage), metrics)
                            saved_at = time.monotonic()
                        if stop:
                            raise KeyboardInterrupt
                    advance(batch.size)
            if ranks.first:
                finished = _save(learner, partial, PolicyState(step, learner.roles, lineage), metrics)
                shards.publish_directory(finished, output)
                shutil.rmtree(partial)
    return Result(output, summary=_summary(step, metrics, first_step))


def _interruptible(progress: Progress) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """An optimizer step is finished, and kept, before an interruption takes effect."""
    return interrupts.held_back(lambda: progress.say("stopping after this step; once more to stop at once"))


@dataclass(frozen=True)
class Proposal:
    """A group as the Proposer sees it: its training step, its reward (None: not learned from), and its row, if the
    Proposer is due to learn from it."""

    step: int
    reward: float | None
    row: TrainingGroup | None


@dataclass(frozen=True)
class Batch:
    """`size` groups, the last of which is that of training step `step`, ready to learn from: the Solver's trajectories
    of those that have any, for one optimizer step, and every group's proposal."""

    step: int
    size: int
    solver: list[TrainingGroup]
    proposals: list[Proposal]


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


class GroupReader:
    """Turns the rows of groups into what the learner takes, checking what another tool may have got wrong."""

    def __init__(self, recorded: Metadata, model: Model, policy_step: int, learner: Learner) -> None:
        self._model = model
        self._vocabulary = len(model.embedding_table())
        self._policy_step = policy_step
        self._learner = learner
        self._pixels: dict[Role, Pixels] = {
            role: Pixels(params.get("min_pixels"), params.get("max_pixels"))
            for role, params in (
                (SOLVER, recorded.stage_params("rollout")),
                (PROPOSER, recorded.stage_params("propose")),
            )
        }

    def batches(self, groups: Iterable[Group], after: int) -> Iterator[Batch]:
        """The groups in the batches of an update; of those up to training step `after`, only step and size."""
        iterator = iter(groups)
        while batch := list(islice(iterator, self._learner.params.groups_per_step)):
            step = self._step(batch[-1])
            yield self._batch(batch) if step > after else Batch(step, len(batch), [], [])

    def _batch(self, groups: list[Group]) -> Batch:
        for group in groups:
            self._check_rewards(group)
        solver = [rows for rows in (_learnable(group, SOLVER) for group in groups) if rows]
        return Batch(
            step=self._step(groups[-1]),
            size=len(groups),
            solver=[self._training_group(rows, SOLVER, place) for place, rows in enumerate(solver)],
            proposals=[self._proposal(group) for group in groups],
        )

    def _proposal(self, group: Group) -> Proposal:
        step = self._step(group)
        due = step % self._learner.params.proposer_every == 0
        rows = _learnable(group, PROPOSER) if due else []
        return Proposal(step, group[0]["reward"], self._training_group(rows, PROPOSER, 0) if rows else None)

    def _step(self, group: Group) -> int:
        """The group's training step t. Raises DataError unless it follows from the policy and group_index."""
        step, expected = group[0]["step"], self._policy_step + group[0]["group_index"] + 1
        if step != expected:
            raise DataError(f"group {group[0]['group_id']}: its step is {step}, and should be {expected}")
        return expected

    def _check_rewards(self, group: Group) -> None:
        """Raises DataError for a reward that is no number: it would stay in the baseline for ever."""
        for row in group:
            if row["reward"] is not None and not math.isfinite(row["reward"]):
                raise DataError(f"{_where(row)}: its reward is not a finite number")

    def _training_group(self, rows: Group, role: Role, place: int) -> TrainingGroup:
        """`rows` of one group, which is the step's at `place`; its prompt only where this process computes it."""
        for row in rows:
            self._check(row)
        if len({row["prompt"] for row in rows}) > 1:
            raise DataError(f"group {rows[0]['group_id']}: its {role} rows have different prompts")
        prompt = None
        if self._learner.computes(place):
            image = images.load(rows[0]["image"] or {}, rows[0]["image_sha256"])
            prompt = self._learner.model.process(image, rows[0]["prompt"] or "", self._pixels[role])
        return TrainingGroup(
            prompt=prompt,
            token_ids=[row["token_ids"] for row in rows],
            logprobs=[row["logprobs"] for row in rows],
            rewards=[row["reward"] for row in rows],
        )

    def _check(self, row: dict[str, Any]) -> None:
        where = _where(row)
        logprobs = row["logprobs"] or []
        if len(logprobs) != len(row["token_ids"]):
            raise DataError(f"{where}: {len(row['token_ids'])} token_ids but {len(logprobs)} logprobs")
        if not all(value is not None and math.isfinite(value) for value in logprobs):
            raise DataError(f"{where}: a log-probability is not a finite number")
        if (token := forbidden_in(self._model, row["token_ids"], self._vocabulary)) is not None:
            raise DataError(f"{where}: token {token} cannot have been sampled from {self._model.ref.name}")


def _learnable(group: Group, role: Role) -> Group:
    """The role's rows that have tokens and a reward."""
    return [row for row in group if row["role"] == role and row["token_ids"] and row["reward"] is not None]


def _where(row: dict[str, Any]) -> str:
    return f"group {row['group_id']}, {row['role']} {row['sample_index']}"


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


def _left_over(partial: Path, lineage: Metadata, force: bool, start: int) -> int:
    """How many groups the newest checkpoint of this very update has learned from, the policy it began from being at
    step `start`."""
    for folder in reversed(_checkpoints(partial)):
        with contextlib.suppress(DataError):
            state = read_state(folder)
            if not force:
                shards.refuse_differences(f"what an interrupted update left in {partial}", state.lineage, lineage)
            if not shards.differences(state.lineage, lineage):
                return state.step - start
    return 0


def _checkpoints(partial: Path) -> list[Path]:
    return sorted(partial.glob("step-????????????"))


def _resume(
    learner: Learner, start: Policy, partial: Path, lineage: Metadata, force: bool
) -> tuple[int, list[dict[str, Any]]]:
    """Takes the learner to the newest checkpoint of this very update, else to the policy it starts from; the step
    reached and the metrics so far. Raises UsageError for the checkpoints of another update, which `force` gives up."""
    found: tuple[Path, list[dict[str, Any]]] | None = None
    for folder in reversed(_checkpoints(partial)) if learner.ranks.first else ():
        with contextlib.suppress(DataError):  # a damaged checkpoint is as good as none
            state = read_state(folder)
            if not force:
                shards.refuse_differences(f"what an interrupted update left in {partial}", state.lineage, lineage)
            if not shards.differences(state.lineage, lineage):
                check_whole(folder, state)
                metrics = shards.read_table(folder / METRICS_FILE, METRICS).to_pylist()
                learner.load(folder)
                found = folder, metrics
                break
        shutil.rmtree(folder)
    folder, metrics = learner.ranks.from_first(found or (start.folder, []))
    return learner.load(folder).step if folder else 0, metrics


def _save(learner: Learner, partial: Path, state: PolicyState, metrics: list[dict[str, Any]]) -> Path:
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
