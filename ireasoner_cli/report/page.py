"""The page: what is drawn from which figures, and its assembly."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ireasoner_cli.agreement import divergence
from ireasoner_cli.lineage import settings
from ireasoner_cli.report import charts
from ireasoner_cli.report.charts import Cell, Chart, HeatMap, Series
from ireasoner_cli.report.figures import POSITIONS, Run, read_run
from ireasoner_cli.report.gallery import Budget, Card, cards
from stages import __version__, shards
from stages.contract import PROPOSER, SOLVER
from stages.errors import UsageError
from stages.learning.drift import LEAST_ESS, WEIGHT_OFF
from stages.policy import STATE_FILE
from stages.shards.sealing import MAGIC

GENERATOR = "ireasoner report"
RUNS = 6  # as many as can be told apart by colour
COLUMNS = 24  # of the heat map over training
TILES = 6
MIXED = "(1 − λ) · answer + λ · steps"
DRIFT = "How far the policy has gone from the one that the rows were sampled from. Dashed: the Proposer."


@dataclass(frozen=True)
class Tile:
    """A quantity at a glance: of each run the first and the last, None where they are one, and the way between."""

    title: str
    values: list[tuple[int, str | None, str]]
    chart: Chart | None


@dataclass(frozen=True)
class Section:
    title: str
    lead: str
    charts: list[Chart]


def write_report(runs: Sequence[Path], out: Path, gallery: int, force: bool) -> dict[str, int]:
    """Writes the page and returns how many runs, groups, cards and bytes are in it.

    Raises UsageError for a path that is no run or an output in the way, DataError for shards that are damaged or not
    scored yet, EngineError when the page cannot be written.
    """
    if len(runs) > RUNS:
        raise UsageError(f"{len(runs)} runs; more than {RUNS} cannot be told apart on one page")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file with --out")
    if out.exists():
        with out.open("rb") as file:
            head = file.read(4096)
        if head.startswith(MAGIC) or (out.parent / STATE_FILE).is_file():
            raise UsageError(f"{out} is a shard, or of a policy; name another --out")
        if not force and GENERATOR.encode() not in head:
            raise UsageError(f"{out} exists and is no report; name another --out, or use --force")
    read = [read_run(path, name) for path, name in zip(runs, _names(runs), strict=True)]
    budget = Budget()
    shown = [card for place, run in enumerate(read) for card in cards(run, place, gallery // len(read), budget)]
    shown.sort(key=lambda card: -card.divergence if np.isfinite(card.divergence) else np.inf)
    html = render(read, shown).encode(errors="replace")
    shards.write_file(out, html)
    return {
        "runs": len(read),
        "groups": sum(len(run.groups["step"]) for run in read),
        "gallery": len(shown),
        "bytes": len(html),
    }


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of the path before them as tells them apart."""
    resolved = [path.resolve() for path in runs]
    for length in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-length:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    raise UsageError("a run is named twice")


def render(runs: Sequence[Run], shown: Sequence[Card]) -> str:
    """The page as one HTML text. Everything that comes from shards is escaped by the template engine, and the page's
    own policy lets no script run but ours and no request leave."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates = resources.files("ireasoner_cli.report") / "templates"
    style, script = ((templates / name).read_text("utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string((templates / "report.html").read_text("utf-8")).render(
        generator=f"{GENERATOR} {__version__}",
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        runs=runs,
        tiles=_tiles(runs),
        sections=_sections(runs),
        over_training=[_over_training(run, place) for place, run in enumerate(runs)],
        by_depth=_by_depth(runs),
        step_by_step=[_step_by_step(run, place) for place, run in enumerate(runs) if run.divergent],
        cards=shown,
        iterations=sorted({card.iteration for card in shown}),
        lineage=[_lineage(run) for run in runs],
        total=sum(len(run.candidates) for run in runs),
    )


def _lines(runs: Sequence[Run], quantity: str) -> list[Series]:
    return [charts.binned(run.name, i, run.groups["step"], run.groups[quantity], 16) for i, run in enumerate(runs)]


def _optimizer_lines(runs: Sequence[Run], quantity: str) -> list[Series]:
    """The Solver's, and dashed the Proposer's."""
    return [
        charts.binned(f"{run.name}, {role}", place, own["step"], own[quantity], 3, dashed=role == PROPOSER)
        for place, run in enumerate(runs)
        for role in (SOLVER, PROPOSER)
        if (own := run.optimizer.get(role))
    ]


def _evaluation_lines(runs: Sequence[Run]) -> list[tuple[str, list[Series]]]:
    """A chart for each way of asking, with a line a run."""
    by_label: dict[str, list[Series]] = {}
    for place, run in enumerate(runs):
        for each in run.evaluations:
            line = Series(run.name, place, each.step, each.accuracy, each.low, each.high, dots=True)
            by_label.setdefault(f"{each.label} ({each.questions} questions)", []).append(line)
    return list(by_label.items())


def _setting(runs: Sequence[Run], stage: str, name: str) -> float | None:
    """A parameter that all runs share, None where they differ or do not record it."""
    values = {run.metadata.stage_params(stage).get(name) for run in runs}
    value = values.pop() if len(values) == 1 else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _paid(given: Sequence[str | None], usual: str) -> dict[str, Any]:
    """What a chart says of a reward that runs were `given`, None for the usual one, which is between 0 and 1 where
    other sums of terms need not be."""
    low, high = (None, None) if any(given) else (0.0, 1.0)
    return {"note": " or ".join(dict.fromkeys(each or usual for each in given)), "low": low, "high": high}


def _of_solver(params: Mapping[str, Any]) -> str | None:
    """The Solver's reward by the options of `score`, None for the usual one."""
    terms, factor = params.get("solver_reward"), params.get("factor")
    return f"({terms or MIXED}) × {factor}" if factor else terms


def _sections(runs: Sequence[Run]) -> list[Section]:
    def group(title: str, note: str, quantity: str, target: float | None = None, low: float | None = 0.0,
              high: float | None = None) -> Chart | None:  # fmt: skip
        return charts.chart(title, note, _lines(runs, quantity), target, bounds=(low, high))

    def optimizer(title: str, note: str, quantity: str, log: bool = False) -> Chart | None:
        return charts.chart(title, note, _optimizer_lines(runs, quantity), log=log, bounds=(0.0, None))

    scored = [run.metadata.stage_params("score") for run in runs]
    of_solver = [_of_solver(params) for params in scored]
    of_proposer = [None if (terms := params.get("proposer_reward")) == "entropy" else terms for params in scored]
    sections = [
        ("Held-out accuracy", "What labels say, which the rewards never see. Bars are 95 % intervals.",
         [charts.chart(label, "accuracy", lines, bounds=(0.0, 1.0)) for label, lines in _evaluation_lines(runs)]),
        ("Questions", "The Proposer is paid for questions on which the answers differ, but not too much.", [
            group("Proposer's reward", quantity="proposer_reward", **_paid(of_proposer, "of a group's question")),
            group("Answer entropy", "nats; dashed: what the Proposer aims at", "entropy",
                  _setting(runs, "score", "entropy_target")),
            group("Questions asked", "share of proposals that hold one", "asked", high=1.0),
        ]),
        ("Consensus", "How many rollouts share the dominant answer, and how alike they reason.", [
            group("Density of the dominant group", "ρ = (|G|/N)^γ", "density", high=1.0),
            group("Step similarity", "cosine of a step to its prototype, mean", "similarity", low=None, high=1.0),
            group("Disagreement", "1 − cosine to the others' prototype, oneself left out", "disagreement"),
        ]),
        ("Rewards", "The Solver's reward moves from the answer to the steps as λ grows.", [
            group("Solver's reward", quantity="reward", **_paid(of_solver, MIXED)),
            group("Answer reward", "p(a)^α · brevity", "r_answer", high=1.0),
            group("Step reward", "density · weighted agreement of the steps", "r_step", high=1.0),
            group("λ", "weight of the step reward", "step_weight", high=1.0),
        ]),
        ("Reasoning", "What the rollouts look like.", [
            group("Steps a rollout", "parsed from its reasoning", "steps"),
            group("Words of reasoning", "in a rollout's steps", "reasoning_words"),
            group("Words of the answer", "of those rollouts that have one", "answer_words"),
            group("Valid step positions", "those at least two dominant rollouts have", "positions"),
            group("No answer", "share of rollouts without one", "unanswered", high=1.0),
            group("Cut short", "share of rollouts that ran out of tokens", "cut_short", high=1.0),
        ]),
        ("Learning", "Dashed: the Proposer.", [
            optimizer("KL to the base model", "nats a token", "kl"),
            optimizer("KL coefficient", "β, logarithmic", "kl_coef", log=True),
            optimizer("Gradient norm", "before clipping", "grad_norm"),
        ]),
        ("Drift", " ".join([DRIFT, *(f"{run.name}, {each}." for run in runs for each in run.drifted)]), [
            optimizer("Importance weight", f"w, mean; harmless within 1 ± {WEIGHT_OFF:g}", "importance_weight"),
            optimizer("Effective sample size", f"(Σw)²/(n·Σw²); harmless from {LEAST_ESS:g} on",
                      "effective_sample_size"),
            optimizer("Clipped", "share of the tokens at which π/μ was cut off", "clipped"),
        ]),
    ]  # fmt: skip
    drawn = [Section(title, lead, [each for each in drawn if each]) for title, lead, drawn in sections]
    return [section for section in drawn if section.charts]


def _tiles(runs: Sequence[Run]) -> list[Tile]:
    """First and last iteration's mean; of evaluations the first and last point."""
    tiles = []
    for label, lines in _evaluation_lines(runs)[:2]:
        name = label.split(" (")[0]
        values: list[tuple[int, str | None, str]] = [
            (line.run, f"{100 * line.y[0]:.3g} %" if len(line.y) > 1 else None, f"{100 * line.y[-1]:.3g} %")
            for line in lines
        ]
        tiles.append(Tile(f"Accuracy · {name}", values, charts.chart("", "", lines)))
    quantities = [
        ("Solver's reward", "reward", 3),
        ("Dominant-group density", "density", 3),
        ("Step disagreement", "disagreement", 4),
        ("Answer entropy", "entropy", 2),
        ("Steps a rollout", "steps", 2),
        ("Proposer's reward", "proposer_reward", 3),
    ]
    for title, quantity, digits in quantities[: TILES - len(tiles)]:
        values = []
        for place, run in enumerate(runs):
            means = [_iteration_mean(run, quantity, index) for index in (0, -1)]
            first, last = ("–" if mean is None else f"{mean:.{digits}f}" for mean in means)
            values.append((place, first if len(run.starts) > 1 else None, last))
        tiles.append(Tile(title, values, charts.chart("", "", _lines(runs, quantity))))
    return tiles


def _iteration_mean(run: Run, quantity: str, index: int) -> float | None:
    starts = sorted(run.starts)
    first = starts[index]
    end = starts[1] if index == 0 and len(starts) > 1 else np.inf
    inside = (run.groups["step"] >= first) & (run.groups["step"] < end)
    values = run.groups[quantity][inside]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _over_training(run: Run, place: int) -> HeatMap:
    """Disagreement at each step position (rows) over training (columns): the leave-one-out heat map."""
    step = run.groups["step"]
    count = min(COLUMNS, max(1, len(step) // 4))
    edges = np.linspace(step.min(), step.max() + 1, count + 1)
    column = np.clip(np.searchsorted(edges, step, side="right") - 1, 0, count - 1)
    depth = int(np.isfinite(run.disagreement).any(axis=0).sum())
    cells = []
    for index in range(count):
        for position in range(depth):
            values = run.disagreement[column == index, position]
            values = values[np.isfinite(values)]
            mean = float(values.mean()) if len(values) else None
            where = f"steps {edges[index]:.0f}–{edges[index + 1] - 1:.0f}, position {position + 1}"
            title = f"{where}: {mean:.4f} over {len(values)} groups" if mean is not None else f"{where}: none"
            cells.append(Cell(index, position, None if mean is None else divergence(1 - mean), title))
    headings = [f"{edge:.0f}" for edge in edges[:-1]]
    return HeatMap(run.name, place, headings, [str(position + 1) for position in range(depth)], cells)


def _by_depth(runs: Sequence[Run]) -> Chart | None:
    """Disagreement by step position: of each run the last third of training, and dashed the first."""
    lines = []
    for place, run in enumerate(runs):
        third = max(1, len(run.disagreement) // 3)
        for label, rows, dashed in (("last third", slice(-third, None), False), ("first third", slice(third), True)):
            points = []
            for position in range(POSITIONS):
                values = run.disagreement[rows, position]
                values = values[np.isfinite(values)]
                if len(values) >= 2:
                    margin = charts.Z * values.std(ddof=1) / len(values) ** 0.5
                    points.append((position + 1, values.mean(), max(values.mean() - margin, 0), values.mean() + margin))
            if points:
                x, y, low, high = (list(map(float, column)) for column in zip(*points, strict=True))
                lines.append(Series(f"{run.name}, {label}", place, x, y, low, high, dashed=dashed, dots=not dashed))
    return charts.chart("Disagreement by depth", "1 − leave-one-out cosine; dashed: first third", lines,
                        bounds=(0.0, None))  # fmt: skip


def _step_by_step(run: Run, place: int) -> HeatMap:
    """The rollouts (rows) of the last iteration's most divergent groups, position by position (columns)."""
    cells: list[Cell] = []
    rows: list[str] = []
    links: list[str] = []
    depth = max(int(np.isfinite(each.similarity).any(axis=0).nonzero()[0].max()) + 1 for each in run.divergent)
    for each in run.divergent:
        for sample, similarity in zip(each.samples, each.similarity, strict=True):
            for position, value in enumerate(similarity[:depth]):
                known = bool(np.isfinite(value))
                title = f"group {each.group_id}, rollout {sample}, step {position + 1}: "
                title += f"{value:.3f}" if known else "does not count"
                cells.append(Cell(position, len(rows), divergence(value) if known else None, title,
                                  f"{value:.2f}" if known else ""))  # fmt: skip
            rows.append(f"{each.group_id[:6]} #{sample}")
            links.append(each.group_id)
    return HeatMap(run.name, place, [str(position + 1) for position in range(depth)], rows, cells, links)


def _lineage(run: Run) -> list[tuple[str, str]]:
    """How the run was made, as the last scored shard and the last policy tell it."""
    metadata = run.metadata
    lines = [("model", f"{metadata.model.name} {(metadata.model.sha256 or '')[:12]}"), ("seed", str(metadata.seed))]
    lines.append(("version", metadata.version))
    for stage, params in settings(run.learning, metadata).items():
        own = {name: value for name, value in params.items() if value is not None and value is not False}
        lines.append((stage, ", ".join(f"{name} = {value}" for name, value in own.items())))
    return lines
