import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from ireasoner_cli import console, options

GROUPS = "Groups"


def command(
    path: Annotated[
        Path, typer.Argument(help="A shard, a directory of parts, a policy, a benchmark, or a run's folder.")
    ],
    group: Annotated[
        str | None,
        options.Option(
            metavar="ID", help="This group; the first digits do.", rich_help_panel=GROUPS, show_default=False
        ),
    ] = None,
    best: Annotated[bool, options.Option("--best", help="Highest mean reward.", rich_help_panel=GROUPS)] = False,
    worst: Annotated[bool, options.Option("--worst", help="Lowest mean reward.", rich_help_panel=GROUPS)] = False,
    disagree: Annotated[
        bool, options.Option("--disagree", help="Answers, then steps, that differ most.", rich_help_panel=GROUPS)
    ] = False,
    top: Annotated[int, options.Option(min=1, help="How many of these to show.", rich_help_panel=GROUPS)] = 1,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Say what a file is, where it came from and what is in it; show groups of trajectories.

    Runs in progress can be looked at too: parts that are there, and chunks of those being written.

    ireasoner inspect scored.parquet --disagree --top 3

    ireasoner inspect policy/
    """  # fmt: skip
    from ireasoner_cli.inspection import display, groups, summary
    from ireasoner_cli.runs import find_iterations
    from stages import shards
    from stages.errors import UsageError
    from stages.policy import STATE_FILE

    orders = [order for order, on in zip(groups.Order, (best, worst, disagree), strict=True) if on]
    if (group is not None) + len(orders) > 1:
        raise UsageError("--group, --best, --worst and --disagree are one choice; give one of them")
    if group is None and not orders:
        found = summary.summarise(path)
        if isinstance(found, list):
            if json:
                print(jsonlib.dumps([shard.to_json() for _, shard in found]))
            else:
                console.print_table(display.run_view(found))
        elif json:
            print(jsonlib.dumps(found.to_json()))
        else:
            console.stdout.print(display.summary_view(found))
        return

    if inside := find_iterations(path):
        raise UsageError(f"{path}: groups are shown of one shard, such as {inside[-1].furthest}")
    if (path / STATE_FILE).is_file():
        raise UsageError(f"{path}: a policy, and has no groups of trajectories to show")
    files = shards.find_output(path).readable
    metadata = shards.read_metadata(files[0])
    if metadata.stage not in ("rollout", "score"):
        raise UsageError(f"{path}: written by `{metadata.stage}`, and has no groups of trajectories to show")
    if group is not None:
        chosen = [groups.find_group(files, metadata, group)]
    else:
        chosen = groups.read_groups(files, metadata, groups.choose(files, metadata, orders[0], top))
    if json:
        print(jsonlib.dumps([each.to_json() for each in chosen]))
    else:
        for each in chosen:
            console.stdout.print(display.group_view(each))
