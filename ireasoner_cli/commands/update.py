from functools import partial

from ireasoner_cli import console, options
from ireasoner_cli.work import Work
from stages.parameters.update import UpdateCall, UpdateParams


@options.declared
def command(
    scored: options.Inputs,
    params: UpdateParams,
    call: UpdateCall,
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> Work:
    """Learn from a scored shard: the KL-regularised policy gradient, on both adapters, or another loss.

    ireasoner update scored.parquet

    ireasoner update it0002/scored.parquet --policy it0001/policy --lr 5e-5

    ireasoner update scored.parquet --loss dpo --roles solver --kl-fixed 0

    On several GPUs: torchrun --nproc-per-node 8 -m ireasoner_cli update …, with --groups-per-step 8 or more; with
    --shard-base of a model larger than one.
    """
    from stages.learning.ranks import Ranks
    from stages.update import update

    stage = partial(update, scored, params, call)
    return Work(stage, lambda result: console.stage_result(result, json) if Ranks().first else None)
