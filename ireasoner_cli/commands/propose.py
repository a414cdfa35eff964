from functools import partial
from pathlib import Path
from typing import Annotated

from ireasoner_cli import console, options
from ireasoner_cli.work import Work
from stages.parameters.call import FirstCall
from stages.parameters.propose import ProposeParams


@options.declared
def command(
    images: Annotated[Path, options.Option(help="A folder tree of images, or a Parquet dataset with an image column.")],
    params: ProposeParams,
    call: FirstCall,
    json: options.Json = False,
    config: options.Config = None,
    recipe: options.Recipe = None,
    debug: options.Debug = False,
) -> Work:
    """Ask one question about each of the next images of the pool.

    ireasoner propose --images pool/

    ireasoner propose --images pool/ --policy it0001/policy --shard 1/4
    """
    from stages.propose import propose
    from stages.sampling import open_sampler

    stage = partial(propose, images, params, call, engines=partial(open_sampler, debug=debug))
    return Work(stage, partial(console.stage_result, as_json=json))
