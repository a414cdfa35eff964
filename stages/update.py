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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from stages import interrupts, shards
from stages.ahead import ahead
from stages.contract import PROPOSER, SOLVER, gone_on
from stages.job import Start
from stages.learning import beforehand, checkpoints
from stages.learning.batches import Batch, GroupReader
from stages.learning.learner import MAX_GRAD_NORM, WEIGHT_DECAY, Learner, ModelSource
from stages.learning.ranks import Ranks
from stages.models.device import this_device
from stages.models.support import check_learning
from stages.parameters import Call, recorded
from stages.parameters.update import UpdateParams
from stages.policy import PolicyState
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.updating import asked, remarks
from stages.updating.columns import columns
from stages.updating.policy_job import PolicyJob
from stages.updating.proposals import check_compared

CHECKPOINT_SECONDS = 60.0
# No options, and recorded beside them: how a policy was trained is to be read off it.
FIXED = {"optimizer": "AdamW", "weight_decay": WEIGHT_DECAY, "max_grad_norm": MAX_GRAD_NORM}
EXPERTS = "{name} has experts: its adapters are on {targets}, outside of them"


def update(
    inputs: Sequence[Path],
    params: UpdateParams,
    call: Call = Call(),
    progress: Progress = SILENT,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    models: ModelSource | None = None,
) -> Result:
    """Writes the next policy directory; the policy asked for is the one the trajectories were sampled from or, with a
    lag of 1, the one that was made from that.

    Under torchrun all its processes call this, and spread the groups of each step over themselves. `models`: where the
    learner has its model from, in a process that keeps one.
    Raises UsageError when the policy is missing or would be written over, DataError for shards, images or a
    policy that do not fit, EngineError when the model cannot be learned from or loaded.
    """
    started = time.monotonic()
    ranks = Ranks()
    scored = shards.Shards(inputs, "score", columns(params, inputs))
    start = Start.recorded(call, scored, lag=params.lag)
    asked.check_steps(scored, start.policy)
    sampled_from = scored.metadata.policy
    is_behind = sampled_from.step != start.policy.ref.step
    check_compared(params, scored.metadata.stage_params("propose").get("per_image"))
    lora = asked.lora(params, start.policy, start.model)
    self_reward = asked.self_reward(params, start)
    temperatures = asked.temperatures(params, scored.metadata)
    job = PolicyJob(
        "update",
        call,
        start,
        output=call.out or inputs[0].parent / "policy",
        params={
            **FIXED,
            **recorded(params),
            **asked.recorded_lora(lora),
            **({"sampled_from": asdict(sampled_from)} if is_behind else {}),
            "last_token": self_reward.token if params.loss_aux and self_reward else None,
            "score": scored.metadata.params,
        },
        seed=scored.metadata.seed,
        inputs=scored.inputs,
        total=call.at_most(scored.group_count),
    )
    if call.force or not job.output.exists():  # what is there was made by as many as it was
        asked.check_processes(params, ranks)
    with ranks:
        if there := ranks.from_first(job.there() if ranks.first else None):
            return there
        if not ranks.first:
            progress = SILENT

        check_learning(start.model)
        with job.checkpoints(ranks) as unfinished:
            with progress.busy("loading the model"):
                learner = Learner(start.model, params, job.metadata.seed, ranks, lora, temperatures, models)
                learner.last = asked.last_token(params, self_reward, start.model)
            if learner.model.has_experts:
                progress.say(EXPERTS.format(name=start.model.ref.name, targets=",".join(learner.lora.targets)))
            reader = GroupReader(scored.metadata, start.model, learner)
            measuring = partial(_reading, reader, scored, job, scored.metadata.step, "measuring", progress)
            beforehand.settle(learner, start.policy, measuring, unfinished, job.metadata, call.force)
            with progress.busy("loading the policy"):
                step, metrics, begun = checkpoints.resume(learner, start.policy, unfinished, job.metadata, call.force)
            sharded = {"shard_base": True} if params.shard_base else {}
            device = this_device().recorded(ranks=ranks.size, **sharded)
            lineage = replace(job.metadata, device=gone_on(begun, device))
            if metrics:
                progress.say(f"{job.output}: an interrupted update of the same inputs is taken up at step {step}")

            def state(step: int) -> PolicyState:
                own = asked.measured(self_reward, learner.last)
                return PolicyState(step, learner.roles, lineage, learner.lora, own)

            first_step: float | None = None
            with (
                _interruptible(progress) as interrupted,
                _reading(reader, scored, job, step, "update", progress) as batches,
            ):
                saved_at = time.monotonic()
                for batch in batches:
                    if batch.step > step:  # else learned from before an interruption
                        learned = _learn(learner, batch, progress)
                        if not metrics and not is_behind:
                            remarks.on_first_steps(learned, learner, scored.metadata, progress)
                        metrics += learned
                        first_step = first_step or time.monotonic() - started
                        step = batch.step
                        stop = ranks.any(interrupted())
                        if ranks.first and (stop or time.monotonic() - saved_at >= checkpoint_seconds):
                            checkpoints.save(learner, unfinished, state(step), metrics)
                            saved_at = time.monotonic()
                        if stop:
                            raise KeyboardInterrupt
            late = ranks.any(interrupted())  # while the last step was kept
            if ranks.first:
                finished = checkpoints.save(learner, unfinished, state(step), metrics)
                shards.publish_directory(finished, job.output)
                shutil.rmtree(unfinished)
            if late:
                raise KeyboardInterrupt
        remarks.on_all_steps(metrics, learner, scored.metadata, progress)
    return Result(job.output, summary=_summary(step, metrics, first_step))


@contextlib.contextmanager
def _reading(
    reader: GroupReader, scored: shards.Shards, job: PolicyJob, after: int, name: str, progress: Progress
) -> Iterator[Iterator[Batch]]:
    """The batches of an update, read ahead and shown as they are done; of those up to step `after` only the size."""
    with (
        progress.track(name, len(job.todo), "groups") as advance,
        contextlib.closing(ahead(reader.batches(scored.groups(job.todo), after))) as batches,
    ):

        def counted() -> Iterator[Batch]:
            for batch in batches:
                yield batch
                advance(batch.size)

        yield counted()


def _interruptible(progress: Progress) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """An optimizer step is finished, and kept, before an interruption takes effect."""
    return interrupts.held_back(lambda: progress.say("stopping after this step; once more to stop at once"))


def _learn(learner: Learner, batch: Batch, progress: Progress) -> list[dict[str, Any]]:
    """The optimizer steps that a batch is due: one of the Solver, then those of the Proposer."""
    rows: list[dict[str, Any]] = []
    if batch.solver:
        rows.append({"step": batch.step, **learner.step(SOLVER, batch.solver)})
        for group in batch.solver:
            for of_pass, mean_reward in group.mean_rewards().items():
                learner.observe(SOLVER, mean_reward, of_pass)
    for proposals in batch.proposals:
        if proposals.groups:
            rows.append({"step": proposals.step, **learner.step(PROPOSER, proposals.groups)})
        for reward in proposals.rewards:
            learner.observe(PROPOSER, reward)
    for row in rows:
        if not _is_finite(row):
            progress.say(f"step {row['step']}: the {row['role']}'s gradient is not finite; the step was skipped")
    return rows


def _is_finite(row: dict[str, Any]) -> bool:
    """Whether the learner took the step of this row of metrics: it takes none on what is not finite."""
    return all(math.isfinite(row[name]) for name in ("grad_norm", "loss", "kl"))


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
