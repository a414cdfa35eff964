"""What a demo run came to: files, one trajectory, rewards over the iterations, accuracy before and after.

python -m ireasoner_cli.demo.summary DIR
"""

import os
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ireasoner_cli.console import plain
from stages import shards
from stages.contract import METRICS, PROPOSER, SCORED, SOLVER
from stages.evaluation.compare import TaskComparison, compare
from stages.evaluation.scores import read_run

WROTE = (
    ("propose", "questions.parquet", "a question about each image"),
    ("rollout", "rollouts.parquet", "five reasoned answers to each"),
    ("score", "scored.parquet", "what each is worth, and why"),
    ("update", "policy", "two LoRA adapters and all that resuming needs"),
    ("eval", "eval.parquet", "answers to held-out questions"),
)
NO_IMAGES = pa.schema([column for column in SCORED if column.name not in ("images", "images_sha256")])


def main(folder: Path, picture: Path | None = None) -> None:
    console = Console(highlight=False, record=picture is not None, width=100 if picture else None)
    runs = sorted(run for run in folder.glob("it[0-9]*") if (run / "policy" / "state.json").is_file())
    if not runs:
        sys.exit(f"{folder}: no finished iteration here; run make in it first")
    scored = {run: shards.read_table(run / "scored.parquet", NO_IMAGES).to_pylist() for run in runs}
    console.print(_files(Path(folder.resolve().name, runs[-1].name)))
    console.print(_trajectory(scored[runs[-1]]))
    console.print(_rewards(runs, scored))
    console.print(_accuracy(folder, runs[-1]))
    console.print(_next_steps(folder, runs[-1]))
    if picture is not None:
        console.save_svg(str(picture), title="make demo")


def _files(run: Path) -> Table:
    table = Table("stage", "wrote", "that is", title="What each stage wrote", box=box.SIMPLE_HEAD, title_justify="left")
    for stage, name, what in WROTE:
        table.add_row(stage, plain(str(run / name)), what)
    return table


def _trajectory(rows: list[dict[str, Any]]) -> Panel:
    """The best-rewarded rollout on which most of its group agree, but not all: there is something to see there."""
    solver = [row for row in rows if row["role"] == SOLVER and row["dominant"] and row["steps"]]
    if not solver:
        return Panel("no rollout of this iteration has an answer", title="One trajectory")

    def interest(row: dict[str, Any]) -> tuple[bool, bool, float]:
        differs = any(similarity is not None and similarity < 0.9995 for similarity in row["step_similarity"])
        return 0.5 < row["answer_prob"] < 1, differs, row["reward"]

    row = max(solver, key=interest)
    steps = Table("", "step", "agrees with the others", box=None, pad_edge=False)
    for place, (step, similarity) in enumerate(zip(row["steps"], row["step_similarity"], strict=True), 1):
        steps.add_row(str(place), Text(plain(step)), "–" if similarity is None else f"{similarity:.3f}")
    others = [other["answer"] or "none" for other in rows if other["group_id"] == row["group_id"]][1:]
    worth = (
        f"answer {plain(row['answer'])} (all answers: {plain(', '.join(others))})\n"
        f"answer reward {row['r_answer']:.3f}   step reward {row['r_step']:.3f}   λ {row['step_weight']:.2f}"
        f"   →   reward {row['reward']:.3f}"
    )
    return Panel(
        Group(Text(plain(row["question"]), style="bold"), steps, Text(worth)), title="One trajectory", expand=False
    )


def _rewards(runs: list[Path], scored: dict[Path, list[dict[str, Any]]]) -> Table:
    columns = ("iteration", "λ", "r_answer", "r_step", "reward", "Proposer", "entropy", "KL")
    table = Table(
        *columns,
        title="Mean rewards, iteration by iteration",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        collapse_padding=True,
    )
    for run in runs:
        solver = [row for row in scored[run] if row["role"] == SOLVER]
        proposer = [row for row in scored[run] if row["role"] == PROPOSER]
        metrics = shards.read_table(run / "policy" / "metrics.parquet", METRICS).to_pylist()
        figures = [
            *(_mean([row[name] for row in solver]) for name in ("step_weight", "r_answer", "r_step", "reward")),
            _mean([row["reward"] for row in proposer]),
            _mean([row["entropy"] for row in proposer]),
        ]
        kl = _mean([row["kl"] for row in metrics if row["role"] == SOLVER])
        cells = ["–" if figure is None else f"{figure:.3f}" for figure in figures]
        table.add_row(plain(run.name), *cells, "–" if kl is None else f"{kl:.1e}")
    return table


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _accuracy(folder: Path, run: Path) -> Group:
    """Accuracy before and after, and the paired difference, as `ireasoner compare` has them."""
    table = Table(
        "", "before", "after", "difference", title="Held-out accuracy in %, with 95 % intervals", box=box.SIMPLE_HEAD,
        title_justify="left",
    )  # fmt: skip
    verdicts = []
    for name, before, after in (
        ("greedy", folder / "base.parquet", run / "eval.parquet"),
        ("sampled, T = 1", folder / "base-sampled.parquet", run / "eval-sampled.parquet"),
    ):
        [[found]] = (each.tasks for each in compare(read_run(before), [read_run(after)]))
        figures = (_interval(each.mean, each.low, each.high) for each in (found.base, found.other))
        change = found.difference
        table.add_row(name, *figures, _interval(change.mean, change.low, change.high, "+.1f"))
        verdicts.append(_verdict(name.split(",")[0].capitalize(), found))
    return Group(table, *verdicts)


def _interval(mean: float | None, low: float | None, high: float | None, form: str = ".1f") -> str:
    if mean is None or low is None or high is None:
        return "–"
    return f"{100 * mean:{form}} [{100 * low:{form}}, {100 * high:{form}}]"


def _verdict(kind: str, found: TaskComparison) -> Text:
    """One line on the paired differences: a change only where there is more than chance."""
    if found.verdict == "better":
        asked = found.difference.questions
        return Text(f"{kind} accuracy rose on the same {asked} questions, without a label.", style="bold green")
    if found.verdict == "worse":
        return Text(f"{kind} accuracy fell on the same {found.difference.questions} questions.", style="bold red")
    return Text(f"{kind}: no clear change, the interval of the difference includes zero.", style="yellow")


def _next_steps(folder: Path, run: Path) -> Panel:
    lines = (
        *_activation(folder),
        f"cd {folder.resolve().name}                         # settings are in ireasoner.toml",
        f"ireasoner inspect {run.name}/scored.parquet --disagree",
        "ireasoner report .                # report.html: curves, steps, a gallery",
        f"ireasoner score {run.name}/rollouts.parquet --no-decay --out no-decay.parquet",
        f"ireasoner eval benchmark.parquet --policy {run.name}/policy",
        f"make ITERATIONS={int(run.name[2:]) + 6}              # six more",
    )
    return Panel(Text(plain("\n".join(lines))), title="What to type next", expand=False)


def _activation(folder: Path) -> list[str]:
    """What makes `ireasoner` a command, where it is one of a virtual environment that is not active."""
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return []
    return [f". {os.path.relpath(sys.prefix, folder.resolve().parent)}/bin/activate"]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:] or ["."]))
