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
    pass_name: options.Pass = "answer",
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> Work:
    """Sample N reasoned answers to each question, or another pass of rows beside them.

    ireasoner rollout questions.parquet

    ireasoner rollout questions.parquet --policy it0001/policy --samples 8

    ireasoner rollout rollouts.parquet --pass reader --of answer --no-image

    A pass keeps the rows that are there and adds its own to each group; with `--of` it asks once more of each row of an
    earlier one. Settings files have passes as tables called `pass`, which `--pass NAME` takes its settings from.
    """
    from stages.rollout import rollout
    from stages.sampling import open_sampler

    stage = partial(rollout, questions, params, call, engines=partial(open_sampler, debug=debug))
    return Work(stage, partial(console.stage_result, as_json=json))
