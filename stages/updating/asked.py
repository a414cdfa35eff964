"""What is asked of an update, held to what there is: the shard, the policy, the processes."""

import math
from dataclasses import replace
from typing import Any

from stages import shards
from stages.contract import PROPOSER, SOLVER, Metadata, Role
from stages.errors import DataError, UsageError
from stages.job import Start
from stages.learning.last_token import LastToken
from stages.learning.ranks import Ranks
from stages.models.finding import Model
from stages.models.fitting import check_4bit
from stages.models.language_model import fitting
from stages.models.loading import skeleton
from stages.models.unused import unused_id, unused_token
from stages.parameters.update import UpdateParams
from stages.policy import DEFAULT_LORA, PROJECTIONS, Lora, Policy, SelfReward

ALL = "all"  # for --lora-targets: every projection that the model has


def check_processes(params: UpdateParams, ranks: Ranks) -> None:
    """Raises UsageError for more processes than a step has groups, and for ways to have the base that there are not."""
    if params.load_in_4bit:
        check_4bit()
    if params.shard_base and params.load_in_4bit:
        raise UsageError("--shard-base spreads whole numbers, and --load-in-4bit has none; leave one of them out")
    if params.shard_base and ranks.size == 1:
        raise UsageError(
            "--shard-base spreads the base over several processes, and this is one: torchrun --nproc-per-node N -m "
            "ireasoner_cli update …"
        )
    if ranks.size > params.groups_per_step and not params.shard_base:  # with it, the others lend their shards
        raise UsageError(
            f"{ranks.size} processes cannot share steps of {params.groups_per_step}; "
            f"use --groups-per-step {ranks.size} or more, or fewer processes"
        )


def check_steps(scored: shards.Shards, policy: Policy) -> None:
    """Raises DataError for groups of training steps that the policy has learned from already."""
    if scored.metadata.step < policy.ref.step:
        raise DataError(
            f"{scored.files[0]}: its groups count from step {scored.metadata.step}, and the policy is at step "
            f"{policy.ref.step}, beyond them; ask other questions, with `propose --step {policy.ref.step}`"
        )


def lora(params: UpdateParams, policy: Policy, model: Model) -> Lora:
    """What the adapters are: as asked for at the first update, as the policy has them after. Raises UsageError for
    others than the policy's, and for projections that there are not."""
    own = policy.state.lora if policy.state else DEFAULT_LORA
    targets = own.targets if params.lora_targets is None else tuple(params.lora_targets.replace(" ", "").split(","))
    if targets == (ALL,):
        targets = fitting(DEFAULT_LORA, skeleton(model)).targets if policy.state else DEFAULT_LORA.targets
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


def recorded_lora(lora: Lora) -> dict[str, Any]:
    targets = ALL if lora.targets == DEFAULT_LORA.targets else ",".join(lora.targets)
    return {"lora_rank": lora.rank, "lora_alpha": lora.alpha, "lora_targets": targets}


def self_reward(params: UpdateParams, start: Start) -> SelfReward | None:
    """The policy's self-reward, or the one that begins with this update, whose reference is still to be measured and
    NaN till then. Raises UsageError for another token than the policy's, and for one that will not do."""
    own = start.policy.state.self_reward if start.policy.state else None
    if params.loss_aux is None:
        return own
    if params.roles == "proposer":
        raise UsageError(
            "--loss-aux last-token is learned behind the Solver's answers; leave it out, or --roles proposer"
        )
    if own and params.last_token not in (None, own.token):
        raise UsageError(
            f"{start.policy.folder} has the last token {own.token!r}, which stays as it was at the first such update; "
            "leave --last-token out, or start from the base model"
        )
    token = own.token if own else params.last_token or unused_token(start.model)
    unused_id(start.model, token)
    return SelfReward(token, params.self_reward_scale, own.reference if own else math.nan)


def last_token(params: UpdateParams, own: SelfReward | None, model: Model) -> LastToken | None:
    """What the learner reads behind each answer, where it learns from it."""
    if own is None or params.loss_aux is None:
        return None
    return LastToken(unused_id(model, own.token), own.scale, own.reference)


def measured(own: SelfReward | None, last: LastToken | None) -> SelfReward | None:
    """The self-reward with the reference that the learner has; none where there was no answer to measure it of."""
    if own and last:
        own = replace(own, reference=last.reference)
    return None if own and math.isnan(own.reference) else own


def temperatures(params: UpdateParams, scored: Metadata) -> dict[Role, float]:
    """At which log π enters each role's loss. Raises UsageError where that was not recorded, was 0, or is not one."""
    if not params.sampling_temperature:
        return {}
    sampled: dict[Role, list[dict[str, Any]]] = {
        SOLVER: [scored.passes.get(name, {}) for name in scored.rewarded],
        PROPOSER: [scored.stage_params("propose")],
    }
    found: dict[Role, float] = {}
    for role in sampled if params.roles == "both" else (params.roles,):
        of_role: list[Any] = [each.get("temperature") for each in sampled[role]]
        for temperature in of_role:
            if not isinstance(temperature, int | float) or temperature <= 0:
                raise UsageError(
                    f"--sampling-temperature: the {role}'s rows were sampled at temperature "
                    f"{'unknown' if temperature is None else temperature}, at which there is nothing to learn"
                )
        if len({*of_role}) > 1:
            raise UsageError(
                f"--sampling-temperature: the passes {', '.join(scored.rewarded)} were sampled at temperatures "
                f"{', '.join(map(str, of_role))}, and the loss takes one"
            )
        found[role] = float(of_role[0])
    return found
