from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ireasoner_cli import console, options

if TYPE_CHECKING:
    from stages.evaluation.compare import Comparison

SCOPE = (
    "Intervals and tests allow for which questions were asked (clustered by picture), not for the randomness of "
    "training: runs from other seeds may differ by more."
)
OVER_SEEDS = "Intervals and tests allow for which questions were asked (clustered by picture) and for the seeds: "


def command(
    runs: Annotated[list[Path], typer.Argument(help="The base's eval file, run or folder of seeds, then others'.")],
    plot: Annotated[
        Path | None, options.Option(help="Draw the differences into this SVG file.", show_default=False)
    ] = None,
    markdown: Annotated[
        bool,
        options.Option("--markdown", help="Print the paper's table in Markdown, with a column for each run, instead."),
    ] = False,
    power: Annotated[
        bool,
        options.Option("--power", help="Also say how many questions would show a difference of one point."),
    ] = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Say whether eval runs on the same questions differ by more than chance.

    ireasoner compare base.parquet tuned.parquet

    ireasoner compare base.parquet tuned.parquet --plot differences.svg

    ireasoner compare base.parquet tuned.parquet --power

    ireasoner compare base.parquet tuned.parquet --markdown

    ireasoner compare runs/full runs/no-decay

    Differences are paired by question, with intervals that allow for questions about one picture; the test is
    McNemar's or, where questions share pictures or scores are fractions, a paired permutation test; p is
    Holm-corrected over everything that is compared. Of a run's folder the newest evaluation is taken, and the runs of
    `run --seeds` are one side, paired by seed as well, with Student's t over seeds and questions. docs/statistics.md
    has the formulas.
    """
    if len(runs) < 2 and not markdown:
        raise typer.BadParameter("name at least two eval files: the base, and what to compare with it")
    if markdown and (plot or json or power):
        raise typer.BadParameter("--markdown is a table by itself; leave out --plot, --json and --power")
    if plot and plot.suffix != ".svg":
        raise typer.BadParameter(f"{plot}: the plot is an SVG; name it so")
    from ireasoner_cli.comparison.evaluations import read_side
    from stages.evaluation.compare import compare, paper_table
    from stages.tasks import NAMES

    read = [read_side(path) for path in runs]
    if power and any(run.seeds for run in read):
        raise typer.BadParameter("--power is for two single runs; how far seeds differ is for more seeds to show")
    if markdown:
        console.print_line(paper_table(read))
        if not any(task in NAMES for run in read for task in run.tasks):
            console.stderr.print("none of the runs answers one of these benchmarks; `eval --task` does")
        return
    comparisons = compare(read[0], read[1:])
    if plot:
        from ireasoner_cli.comparison.forest import forest_plot
        from stages import shards

        shards.write_file(plot, forest_plot(comparisons).encode())
    if json:
        console.print_json([{**asdict(found), "verdict": found.verdict()} for found in comparisons])
        return
    for comparison in comparisons:
        _print(comparison)
        if power:
            _print_power(comparison)
    pooled = next((found.seeds for found in comparisons if found.seeds), ())
    console.stderr.print(OVER_SEEDS + ", ".join(map(str, pooled)) if pooled else SCOPE, style="dim")


def _print(comparison: "Comparison") -> None:
    """The table of one comparison and its verdict, on stdout."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("task", box=box.SIMPLE_HEAD)
    names = [console.plain(name) for name in (comparison.base, comparison.other)]
    for heading in ("questions", *names, "difference", "95 % interval", "p (Holm)"):
        table.add_column(Text(heading), justify="right")
    table.add_column("")
    for task in comparison.tasks:
        change = task.difference
        figures = [_figure(side.mean, side.stderr) for side in (task.base, task.other)]
        interval = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
        colour = {"better": "bold green", "worse": "bold red"}.get(task.verdict, "")
        table.add_row(
            Text(console.plain(task.task)), str(change.questions), *figures, f"{100 * change.mean:+.1f}", interval,
            f"{task.adjusted_p:.2g}", Text(task.verdict, style=colour),
        )  # fmt: skip
    if comparison.average:
        mean, low, high = (f"{100 * value:+.1f}" for value in comparison.average)
        table.add_section()
        table.add_row("mean of tasks", "", "", "", mean, f"{low} to {high}", "", "")
    console.print_table(table)
    console.print_line(comparison.verdict())
    if comparison.settings:
        console.stderr.print(
            console.plain(f"the runs were also made differently: {'; '.join(comparison.settings[:4])}")
        )


def _print_power(comparison: "Comparison") -> None:
    """What the questions at hand could show, and how many would show one point, on stdout."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("task", box=box.SIMPLE_HEAD)
    for heading in ("questions", "would show", "for one point"):
        table.add_column(heading, justify="right")
    for task in comparison.tasks:
        change = task.difference
        assert change.detectable is not None
        figures = [f"±{100 * change.detectable:.1f} points", f"{change.needed:,} questions"]
        if change.clusters < 2:  # which say nothing of others
            figures = ["unknown", "unknown"]
        table.add_row(Text(console.plain(task.task)), f"{change.questions:,}", *figures)
    console.print_table(table)
    console.print_line(
        "true differences that so many questions show at 5 % about four times in five, in a single comparison"
    )


def _figure(mean: float | None, stderr: float | None) -> str:
    """A mean with its standard error, where it has one, in percent."""
    return f"{100 * (mean or 0):.1f}" + (f" ± {100 * stderr:.1f}" if stderr is not None else "")
