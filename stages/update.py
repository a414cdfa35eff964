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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from stages import interrupts, shards
from stages.ahead import ahead
from stages.contract import CREDIT, PAIRS, PROPOSER, SCORED, SOLVER, Metadata, Role
from stages.errors import DataError, UsageError
from stages.job import Job, Start
from stages.learning import beforehand, checkpoints
from stages.learning.batches import Batch, GroupReader
from stages.learning.last_token import LastToken
from stages.learning.learner import MAX_GRAD_NORM, WEIGHT_DECAY, Learner
from stages.learning.ranks import Ranks
from stages.models.device import this_device
from stages.models.finding import Model
from stages.models.support import check_learning
from stages.models.unused import unused_id, unused_token
from stages.parameters import Call, recorded
from stages.parameters.update import UpdateParams
from stages.policy import (
    DEFAULT_LORA,
    PROJECTIONS,
    STATE_FILE,
    Lora,
    Policy,
    PolicyState,
    SelfReward,
    check_whole,
    read_state,
)
from stages.progress import SILENT, Progress
from stages.result import Result

ALL = "all"  # for --lora-targets: every projection that the model has
CREDITED = ("policy-gradient", "clip")  # losses that an advantage enters, token by token
CHECKPOINT_SECONDS = 60.0
# No options, and recorded beside them: how a policy was trained is to be read off it.
FIXED = {"optimizer": "AdamW", "weight_decay": WEIGHT_DECAY, "max_grad_norm": MAX_GRAD_NORM}
STILL, ENOUGH_STEPS = 1e-5, 20  # nats a token of KL, below which a policy after so many steps has hardly moved
EXPERTS = "{name} has experts: its adapters are on {targets}, outside of them"
# Nats a token of |log π − log μ| that two programs' rounding explains.
EXPLAINED, EXPLAINED_OF_NARROW = {torch.float32: 1e-3}, 0.05
UNLIKE_SAMPLED = (
    "the {role}'s tokens have other probabilities now than when they were sampled: |log π − log μ| is {mean:.2g} on "
    "average and up to {largest:.2g}, where {dtype} explains {bound:g}. The pictures may be others now or of another "
    "size, or the model may have been sampled in another dtype, or be computed otherwise by the sampler: vLLM on a CPU "
    "leaves out what image tokens see of later ones, as Gemma's do (--sampler transformers does not)"
)
HARDLY_MOVED = (
    f"the policy has hardly moved: after {ENOUGH_STEPS} optimizer steps its KL from the base model is below {STILL:g}. "
    "Raise --lr, now {lr:g}: the papers' 1e-6 is for full fine-tuning or many thousand steps, and LoRA on such models "
    "is trained at 1e-5 to 5e-5"
)


def update(
    inputs: Sequence[Path],
    params: UpdateParams,
    call: Call = Call(),
    progress: Progress = SILENT,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Result:
    """Writes the next policy directory; the policy asked for is the one the trajectories were sampled from.

    Under torchrun all its processes call this, and spread the groups of each step over themselves.
    Raises UsageError when the policy is missing or would be written over, DataError for shards, images or a
    policy that do not fit, EngineError when the model cannot be learned from or loaded.
    """
    started = time.monotonic()
    ranks = Ranks()
    if ranks.size > params.groups_per_step:
        raise UsageError(
            f"{ranks.size} processes cannot share steps of {params.groups_per_step}; "
            f"use --groups-per-step {ranks.size} or more, or fewer processes"
        )
    scored = shards.Shards(inputs, "score", _columns(params, inputs))
    start = Start.recorded(call, scored)
    lora = _lora(params, start.policy)
    self_reward = _self_reward(params, start)
    temperatures = _temperatures(params, scored.metadata)
    job = PolicyJob(
        "update",
        call,
        start,
        output=call.out or inputs[0].parent / "policy",
        params={
            **FIXED,
            **recorded(params),
            **_recorded(lora),
            "last_token": self_reward.token if params.loss_aux and self_reward else None,
            "score": scored.metadata.params,
        },
        seed=scored.metadata.seed,
        inputs=scored.inputs,
        total=call.at_most(scored.group_count),
    )
    with ranks:
        if there := ranks.from_first(job.there() if ranks.first else None):
            return there
        if not ranks.first:
            progress = SILENT

        check_learning(start.model)
        with job.checkpoints(ranks) as unfinished:
            with progress.busy("loading the model"):
                learner = Learner(start.model, params, job.metadata.seed, ranks, lora, temperatures)
                learner.last = _last_token(params, self_reward, start.model)
            if learner.model.has_experts:
                progress.say(EXPERTS.format(name=start.model.ref.name, targets=",".join(learner.lora.targets)))
            reader = GroupReader(scored.metadata, start.model, start.policy.ref.step, learner)
            measuring = partial(_reading, reader, scored, job, start.policy.ref.step, "measuring", progress)
            beforehand.settle(learner, start.policy, measuring, unfinished, job.metadata, call.force)
            with progress.busy("loading the policy"):
                step, metrics = checkpoints.resume(learner, start.policy, unfinished, job.metadata, call.force)
            lineage = replace(job.metadata, device=this_device().recorded(ranks=ranks.size))
            if metrics:
                progress.say(f"{job.output}: an interrupted update of the same inputs is taken up at step {step}")

            def state(step: int) -> PolicyState:
                own = _measured(self_reward, learner.last)
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
                        if not metrics and (warning := unlike_sampled(learned, learner, scored.metadata)):
                            progress.say(warning)
                        metrics += learned
                        first_step = first_step or time.monotonic() - started
                        step = batch.step
                        stop = ranks.any(interrupted())
                        if ranks.first and (stop or time.monotonic() - saved_at >= checkpoint_seconds):
                            checkpoints.save(learner, unfinished, state(step), metrics)
                            saved_at = time.monotonic()
                        if stop:
                            raise KeyboardInterrupt
            if ranks.first:
                finished = checkpoints.save(learner, unfinished, state(step), metrics)
                shards.publish_directory(finished, job.output)
                shutil.rmtree(unfinished)
        if hardly_moved(learner, metrics):
            progress.say(HARDLY_MOVED.format(lr=params.lr))
    return Result(job.output, summary=_summary(step, metrics, first_step))


@contextlib.contextmanager
def _reading(
    reader: GroupReader, scored: shards.Shards, job: "PolicyJob", after: int, name: str, progress: Progress
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


def _lora(params: UpdateParams, policy: Policy) -> Lora:
    """What the adapters are: as asked for at the first update, as the policy has them after. Raises UsageError for
    others than the policy's, and for projections that there are not."""
    own = policy.state.lora if policy.state else DEFAULT_LORA
    targets = own.targets if params.lora_targets is None else tuple(params.lora_targets.replace(" ", "").split(","))
    targets = DEFAULT_LORA.targets if targets == (ALL,) else targets
    if unknown := [name for name in targets if name not in PROJECTIONS]:
        raise UsageError(f"--lora-targets: no projection {unknown[0]!r}; there are {','.join(PROJECTIONS)}, and {ALL}")
    targets = tuple(name for name in PROJECTIONS if name in targets)
    wanted = Lora(params.lora_rank or own.rank, params.lora_alpha or own.alpha, targets)
    if policy.state and wanted != own:
        raise UsageError(
            f"{policy.folder} has LoRA of rank {own.rank}, α {own.alpha} on {','.join(own.targets)}, which stay as "
            "they were at its first update; leave the --lora options out, or start from the base model"
        )
    return wanted


def _recorded(lora: Lora) -> dict[str, Any]:
    targets = ALL if lora.targets == DEFAULT_LORA.targets else ",".join(lora.targets)
    return {"lora_rank": lora.rank, "lora_alpha": lora.alpha, "lora_targets": targets}


def _columns(params: UpdateParams, inputs: Sequence[Path]) -> pa.Schema:
    """What is read of a scored shard. Raises UsageError for preferences where there are none, or of the Proposer, and
    for credit by step where it is no advantage."""
    file = shards.input_files(inputs)[0]
    there = set(shards.schema_of(file).names)
    if set(CREDIT.names) <= there and params.roles != "proposer":
        if params.loss not in CREDITED:
            raise UsageError(
                f"{file}: has credit by step, which --loss {params.loss} cannot take; score without --credit"
            )
        if params.advantage not in ("ema", "mean"):
            raise UsageError(
                f"{file}: its steps' credit is the Solver's advantage, less the group's mean; --advantage "
                f"{params.advantage} would be another: leave it out, or score without --credit"
            )
        return pa.schema([*SCORED, *CREDIT])
    if params.loss != "dpo":
        return SCORED
    if params.roles != "solver":
        raise UsageError("--loss dpo learns from pairs of the Solver's rows; say --roles solver")
    if params.sampling_temperature:
        raise UsageError("--sampling-temperature is for a loss that π/μ enters; leave it out with --loss dpo")
    if not set(PAIRS.names) <= there:
        raise UsageError(f"{file}: has no pairs to learn from; `score --pairs` makes them")
    return pa.schema([*SCORED, *PAIRS])


def _self_reward(params: UpdateParams, start: Start) -> SelfReward | None:
    """The policy's self-reward, or the one that begins with this update, whose reference is still to be measured and
    NaN till then. Raises UsageError for another token than the policy's, and for one that will not do."""
    own = start.policy.state.self_reward if start.policy.state else None
    if params.loss_aux is None:
        return own
    if own and params.last_token not in (None, own.token):
        raise UsageError(
            f"{start.policy.folder} has the last token {own.token!r}, which stays as it was at the first such update; "
            "leave --last-token out, or start from the base model"
        )
    token = own.token if own else params.last_token or unused_token(start.model)
    unused_id(start.model, token)
    return SelfReward(token, params.self_reward_scale, own.reference if own else math.nan)


def _last_token(params: UpdateParams, own: SelfReward | None, model: Model) -> LastToken | None:
    """What the learner reads behind each answer, where it learns from it."""
    if own is None or params.loss_aux is None:
        return None
    return LastToken(unused_id(model, own.token), own.scale, own.reference)


def _measured(own: SelfReward | None, last: LastToken | None) -> SelfReward | None:
    """The self-reward with the reference that the learner has."""
    return replace(own, reference=last.reference) if own and last else own


def _temperatures(params: UpdateParams, scored: Metadata) -> dict[Role, float]:
    """At which log π enters each role's loss. Raises UsageError where that was not recorded, or was 0."""
    if not params.sampling_temperature:
        return {}
    found: dict[Role, float] = {}
    for role, stage in ((SOLVER, "rollout"), (PROPOSER, "propose")):
        if params.roles not in ("both", role):
            continue
        temperature = scored.stage_params(stage).get("temperature")
        if not isinstance(temperature, int | float) or temperature <= 0:
            raise UsageError(
                f"--sampling-temperature: the {role}'s rows were sampled at temperature "
                f"{'unknown' if temperature is None else temperature}, at which there is nothing to learn"
            )
        found[role] = float(temperature)
    return found


def unlike_sampled(rows: Sequence[dict[str, Any]], learner: Learner, scored: Metadata) -> str | None:
    """What to say where an update's first steps, whose policy is the one that was sampled from, find that what was
    sampled has other probabilities now than rounding explains. Nothing where the μ of any pass is of another
    distribution: at another temperature, of the likeliest tokens alone, on another prompt, another adapter's, or a
    stand-in's."""
    for role, passes in ((SOLVER, [*scored.passes.values()]), (PROPOSER, [scored.stage_params("propose")])):
        first = next((row for row in rows if row["role"] == role), None)
        alike = all(_is_of_policy(params, learner.temperature(role)) for params in passes)
        if first is None or not passes or not alike:
            continue
        bound = EXPLAINED.get(dtype := learner.model.head.weight.dtype, EXPLAINED_OF_NARROW)
        if first["logprob_gap"] > bound:
            return UNLIKE_SAMPLED.format(
                role=role,
                mean=first["logprob_gap"],
                largest=first["logprob_gap_max"],
                dtype=str(dtype).removeprefix("torch."),
                bound=bound,
            )
    return None


def _is_of_policy(params: dict[str, Any], temperature: float) -> bool:
    """Whether rows sampled with these parameters have the log μ of what is learned, at this temperature."""
    return (
        params.get("temperature") == temperature
        and params.get("top_p") == 1
        and params.get("sampler") != "fake"
        and params.get("adapter", SOLVER) == SOLVER
        and not params.get("learn_prompt")
    )


def hardly_moved(learner: Learner, metrics: list[dict[str, Any]]) -> bool:
    """Whether so many steps have left the policy where it was."""
    latest = {row["role"]: row["kl"] for row in metrics}
    return any(kl < STILL and learner.roles[role].updates >= ENOUGH_STEPS for role, kl in latest.items())


def _is_finite(row: dict[str, Any]) -> bool:
    """Whether the learner took the step of this row of metrics: it takes none on what is not finite."""
    return all(math.isfinite(row[name]) for name in ("grad_norm", "loss", "kl"))


# ----------------------------------------------------------------------------------------------- on disk


class PolicyJob(Job):
    """A policy to be made: what is written is a directory, and what is left of an interrupted run are checkpoints."""

    def there(self, requests: Callable[[range], int] | None = None) -> Result | None:
        """Raises UsageError, too, where the policy would be written over what it must not."""
        self._check_place()
        found = super().there(requests)
        return replace(found, summary={"step": read_state(self.output).step}) if found and found.reused else found

    def is_done(self) -> bool:
        if not self.call.dry_run:
            shards.restore_directory(self.output, self.call.force)
        if not self._is_made():
            return False
        if not self.call.dry_run:
            shards.clear_leftovers(self.output)
            shards.discard_old_directory(self.output)
        return True

    def left_over(self) -> int:
        partial = shards.partial_directory(self.output)
        return checkpoints.left_over(partial, self.metadata, self.call.force, self.start.policy.ref.step)

    def checkpoints(self, ranks: Ranks) -> contextlib.AbstractContextManager[Path]:
        """The folder of the checkpoints, which the first process holds for all."""
        if ranks.first:
            return shards.writing(self.output, self.call.force)
        return contextlib.nullcontext(shards.partial_directory(self.output))

    def _check_place(self) -> None:
        """Nothing but a policy may be replaced, and not the one that is being updated."""
        output, base = self.output, self.start.policy.folder
        if output.name in ("", "..") or output.suffix == ".parquet":
            raise UsageError(f"{output}: name a folder of its own for the new policy with --out")
        if base and output.resolve() in (base.resolve(), *base.resolve().parents):
            raise UsageError(
                f"{output} is the policy that is being updated, or holds it; name another folder with --out"
            )
        if output.exists() and not (output / STATE_FILE).is_file():
            raise UsageError(f"{output} is in the way, and no policy; name another folder with --out")

    def _is_made(self) -> bool:
        """Whether the policy is there, whole, and was made so. Raises UsageError or DataError when something else
        is."""
        if not self.output.exists() or self.call.force:
            return False
        try:
            made = read_state(self.output)
            check_whole(self.output, made)
        except DataError as error:
            raise DataError(f"{error}; it stands where the output goes, and --force replaces it") from error
        shards.refuse_differences(f"{self.output} exists and", made.lineage, self.metadata)
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
