from pathlib import Path
from typing import Annotated

import typer

from ireasoner_cli import console, options


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder for your project, new or not.")],
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Begin a project of your own: settings with comments, a Makefile, and a page on what to type.

    ireasoner init mine/

    ireasoner init .

    The settings are for one GPU and Qwen2.5-VL with 7 billion parameters or, with another line, 3. `ireasoner demo`
    lays out a small world to try everything in, instead.
    """
    from ireasoner_cli.project import lay_out

    console.result(folder, {"files": ", ".join(lay_out(folder))}, False, json)
