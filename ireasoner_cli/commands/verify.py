from pathlib import Path
from typing import Annotated

import typer

from ireasoner_cli import console, options


def command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH…", help="Shards, directories of parts, policies, or folders of these.")
    ],
    replay: Annotated[
        bool, options.Option("--replay", help="Also make those named again from their lineage, and compare.")
    ] = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Read a chain of files again, from its beginning: checksums, contents, and what each records of its inputs.

    ireasoner verify it0001/ it0002/

    ireasoner verify it0002/scored.parquet --replay
    """
    from stages.verification.verify import verify

    found = []
    for output in verify(paths, replay, console.TerminalProgress()):
        found.append({"path": str(output.path), "stage": output.stage, "rows": output.rows, "replay": output.replayed})
        if not json:
            what = output.replayed or f"{output.stage or 'data'}, {console.counted(output.rows, 'row')}"
            console.print_line(f"ok  {output.path}  ({what})")
    if json:
        console.print_json(found)
