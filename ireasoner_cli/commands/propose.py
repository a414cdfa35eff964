from functools import partial
from pathlib import Path
from typing import Annotated

from ireasoner_cli import console, options
from ireasoner_cli.work import Work
from stages.parameters.call import FirstCall
from stages.parameters.propose import ProposeParams


@options.declared
def command(
    images: Annotated[Path, options.Option(help=options.POOL)],
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

    ireasoner propose --images train.jsonl --questions problem --target answer

    The pool is a folder tree of images, links in it followed and hidden files and folders left out; or rows of Parquet,
    Arrow (.arrow, .feather) or JSON lines (.jsonl), a file or a folder of them; or OWNER/NAME, a dataset on the Hugging
    Face hub, of which the Parquet files of the split `train` are taken where there is one.

    A row's picture is bytes, a struct of bytes and path, a path, or base64 text or a data URI, and a list of these is
    several pictures that are asked about together. It is in the column `image` or `images`, or in the only one that
    holds pictures; --image-column names another. Paths are looked for beside the file that has them, then in the
    working directory; of a dataset on the hub they are not followed, and nothing is fetched from the web. What cannot
    be read becomes a row with the reason.

    With --questions the questions are the dataset's own: a text, a number, or a conversation, of which the last message
    is taken, without `<image>` before or behind it. A field of a struct goes by `column.field`. Such rows have no
    tokens, so that the Proposer never learns from them.
    """
    from stages.propose import propose
    from stages.sampling import open_sampler

    stage = partial(propose, images, params, call, engines=partial(open_sampler, debug=debug))
    return Work(stage, partial(console.stage_result, as_json=json))
