from typing import Annotated

import typer

from ireasoner_cli import console, options
from ireasoner_cli import recipes as shipped


def command(
    name: Annotated[
        str | None, typer.Argument(help="Print this one's settings file.", show_default="list all of them")
    ] = None,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """List the methods that there are as settings, or print one: its source, constants and known differences.

    ireasoner recipes

    ireasoner recipes mm-upt

    `--recipe NAME` on a stage or on run puts a recipe under your own settings. A file of your own, named .toml, is a
    recipe, too.
    """
    if name is not None:
        text = shipped.text(name)
        if json:
            console.print_json({"name": name, "settings": text})
        else:
            console.print_line(text.rstrip())
        return
    found = {each: shipped.title(each) for each in shipped.names()}
    if json:
        console.print_json(found)
        return
    from rich import box
    from rich.table import Table

    table = Table("recipe", "method", box=box.SIMPLE_HEAD)
    for each, title in found.items():
        table.add_row(each, title)
    console.print_table(table)
