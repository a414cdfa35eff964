from pathlib import Path
from typing import Annotated

import typer

from ireasoner_cli import console, options


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run's folder, holding it0001/, it0002/ …; or several, to lay over each other."),
    ],
    out: Annotated[Path | None, options.Option(help="The page.", show_default="report.html in the first run")] = None,
    gallery: Annotated[int, options.Option(min=0, help="About how many groups to show in full.")] = 60,
    force: options.Force = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Make one self-contained page of a run: its curves, how steps agree, and a gallery of groups with their pictures.

    A run that is still going on is shown as far as it is scored. The page needs no network, and may be passed on.

    ireasoner report runs/first

    ireasoner report runs/first runs/no-decay --out both.html
    """  # fmt: skip
    from ireasoner_cli.report.page import write_report

    target = out or runs[0] / "report.html"
    with console.stderr.status("reading the runs"):
        summary = write_report(runs, target, gallery, force)
    console.result(target, summary, False, json)
