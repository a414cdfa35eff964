from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ireasoner_cli import console, options
from ireasoner_cli.config import is_default

if TYPE_CHECKING:
    from rich.console import RenderableType

GROUPS = "Groups and answers"


def command(
    context: typer.Context,
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
    wrong: Annotated[
        bool, options.Option("--wrong", help="Of an evaluation, by type: wrong answers.", rich_help_panel=GROUPS)
    ] = False,
    right: Annotated[
        bool, options.Option("--right", help="Of an evaluation, by type: right answers.", rich_help_panel=GROUPS)
    ] = False,
    top: Annotated[
        int,
        options.Option(
            min=1, help="How many of these to show; of an evaluation, of each type.", rich_help_panel=GROUPS
        ),
    ] = 1,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Say what a file is, where it came from and what is in it; show groups of trajectories, or answers.

    Runs in progress can be looked at too: parts that are there, and chunks of those being written.

    ireasoner inspect scored.parquet --disagree --top 3

    ireasoner inspect eval.parquet --wrong --top 3

    ireasoner inspect policy/
    """  # fmt: skip
    from ireasoner_cli.inspection import answers, display, groups, summary
    from ireasoner_cli.runs import find_iterations
    from stages import shards
    from stages.errors import UsageError
    from stages.policy import STATE_FILE

    orders = [order for order, on in zip(groups.Order, (best, worst, disagree), strict=True) if on]
    if (group is not None) + len(orders) + wrong + right > 1:
        raise UsageError("--group, --best, --worst, --disagree, --wrong and --right are one choice; give one of them")
    is_ordered = bool(orders) or wrong or right
    if not is_ordered and not is_default(context, "top"):
        raise UsageError("--top goes with --best, --worst, --disagree, --wrong or --right")
    if group is None and not is_ordered:
        found = summary.summarise(path)
        if isinstance(found, list):
            if json:
                console.print_json([shard.to_json() for _, shard in found])
            else:
                console.print_table(display.run_view(found))
        elif json:
            console.print_json(found.to_json())
        else:
            console.print_view(display.summary_view(found))
        return

    kind = "answers are" if wrong or right else "groups are"
    if inside := find_iterations(path):
        raise UsageError(f"{path}: {kind} shown of one shard, such as {inside[-1].furthest}")
    if (path / STATE_FILE).is_file():
        raise UsageError(f"{path}: a policy, and has no groups of trajectories to show")
    files = shards.find_output(path).readable
    metadata = shards.read_metadata(files[0])
    if wrong or right:
        if metadata.stage != "eval":
            raise UsageError(f"{path}: written by `{metadata.stage}`; --wrong and --right show what `eval` writes")
        asked = answers.choose(files, wrong, top)
        if not asked and not json:
            console.stderr.print(f"no {'wrong' if wrong else 'right'} answer")
        _show([each.to_json() for each in asked], map(display.asked_view, asked), json)
        return
    if metadata.stage not in ("rollout", "score"):
        advice = "; --wrong and --right show its answers" if metadata.stage == "eval" else ""
        raise UsageError(f"{path}: written by `{metadata.stage}`, and has no groups of trajectories to show{advice}")
    if group is not None:
        chosen = [groups.find_group(files, metadata, group)]
    else:
        chosen = groups.read_groups(files, metadata, groups.choose(files, metadata, orders[0], top))
    _show([each.to_json() for each in chosen], map(display.group_view, chosen), json)


def _show(content: list[dict[str, Any]], views: Iterable["RenderableType"], json: bool) -> None:
    if json:
        console.print_json(content)
        return
    for view in views:
        console.print_view(view)
