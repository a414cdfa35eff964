from pathlib import Path
from typing import Annotated

import typer

from ireasoner_cli import console, options


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Lay out a small world to try everything in: images, a little model, a benchmark, settings, a Makefile.

    ireasoner demo charts/

    ireasoner demo charts/ && make -C charts/
    """
    from ireasoner_cli.demo.layout import lay_out

    new = lay_out(folder)
    console.result(folder, {}, not new, json)
