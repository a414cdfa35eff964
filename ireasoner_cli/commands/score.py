from functools import partial

from ireasoner_cli import console, options
from ireasoner_cli.work import Work
from stages.parameters.score import ScoreCall, ScoreParams


@options.declared
def command(
    rollouts: options.Inputs,
    params: ScoreParams,
    call: ScoreCall,
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> Work:
    """Reward every trajectory for agreement, of its answer and of its steps.

    ireasoner score rollouts.parquet

    ireasoner score rollouts.parquet --no-decay --out no-decay.parquet

    ireasoner score rollouts.parquet --embedding hidden --policy policy/

    ireasoner score rollouts.parquet --reward answer --credit vote
    """
    from stages.score import score

    return Work(partial(score, rollouts, params, call), partial(console.stage_result, as_json=json))
