from functools import partial

from ireasoner_cli import console, options
from ireasoner_cli.work import Work
from stages.parameters.call import ShardedCall
from stages.parameters.rollout import RolloutParams


@options.declared
def command(
    questions: options.Inputs,
    params: RolloutParams,
    call: ShardedCall,
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> Work:
    """Sample N reasoned answers to each question.

    ireasoner rollout questions.parquet

    ireasoner rollout questions.parquet --policy it0001/policy --samples 8
    """
    from stages.rollout import rollout
    from stages.sampling import open_sampler

    stage = partial(rollout, questions, params, call, engines=partial(open_sampler, debug=debug))
    return Work(stage, partial(console.stage_result, as_json=json))
