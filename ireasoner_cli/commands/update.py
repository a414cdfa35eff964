from enum import StrEnum
from functools import partial
from typing import Annotated

from ireasoner_cli import console, options
from ireasoner_cli.work import Work


class Baseline(StrEnum):
    ema = "ema"
    group = "group"


def command(
    scored: options.Inputs,
    lr: Annotated[float, options.Option(min=0.0, help="Learning rate.")] = 1e-6,
    groups_per_step: Annotated[int, options.Option(min=1, help="Groups in one optimizer step of the Solver.")] = 1,
    proposer_every: Annotated[int, options.Option(min=1, help="The Proposer learns when t is a multiple of this.")] = 5,
    baseline: Annotated[
        Baseline, options.Option(help="The Solver's: moving average over groups, or each group's own mean.")
    ] = Baseline.ema,
    kl_start: Annotated[float, options.Option(min=0.0, help="β at step 0.")] = 1e-3,
    kl_target: Annotated[float, options.Option(min=1e-9, help="κ, the KL that β is steered towards.")] = 0.02,
    kl_min: Annotated[float, options.Option(min=0.0, help="β never falls below this.")] = 1e-8,
    gradient_checkpointing: Annotated[
        bool,
        options.Option("--gradient-checkpointing", help="Make activations again in backward: slower, for less memory."),
    ] = False,
    out: options.PolicyOut = None,
    model: options.Model = None,
    policy: options.Policy = None,
    limit: options.Limit = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> Work:
    """Learn from a scored shard: the KL-regularised policy gradient, on both adapters.

    ireasoner update scored.parquet

    ireasoner update it0002/scored.parquet --policy it0001/policy --lr 5e-5

    On several GPUs: torchrun --nproc-per-node 8 -m ireasoner_cli update …, with --groups-per-step 8 or more.
    """
    from stages.learning.ranks import Ranks
    from stages.update import UpdateParams, update

    params = UpdateParams(lr, groups_per_step, proposer_every, baseline.value, kl_start, kl_target, kl_min, limit)
    stage = partial(
        update, scored, params, policy, out, model, force,
        gradient_checkpointing=gradient_checkpointing, dry_run=dry_run,
    )  # fmt: skip
    return Work(stage, lambda result: console.stage_result(result, json) if Ranks().first else None)
