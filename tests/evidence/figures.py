"""The figures of docs/evidence.md, drawn with matplotlib from the CSV files in `folder`."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tests.evidence.results import ROWS, by_seed, differences, read_accuracy, read_dynamics

# Okabe and Ito's: told apart by those who do not see all colours, and by lightness.
BLUE, ORANGE, BLACK = "#0072B2", "#E69F00", "#000000"
SHADE = "#eeeeee"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ireasoner",  # the same names inside the file each time
    "svg.fonttype": "none",  # text stays text
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own; where there is none, any other
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#666666",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.markersize": 4.5,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
WORLDS = {"home": "home: the world of self-play", "abroad": "abroad: a world that self-play never sees"}
# Colour, filling and place beside the row's line.
DECODINGS = {"greedy": (ORANGE, "white", -0.14), "sampled": (BLUE, BLUE, 0.14)}
COURSES = {"answer": BLUE, "step": ORANGE, "full": BLACK}
# Title and unit of each panel of the dynamics, in the order in which a rollout comes to be worth something.
PANELS = {
    "proposer_reward": ("Proposer's reward", ""),
    "entropy": ("entropy of the answers", "nats"),
    "density": ("dominant group", "share of rollouts"),
    "step_similarity": ("step similarity", "cosine"),
    "r_answer": ("answer reward", ""),
    "r_step": ("step reward", ""),
    "reward": ("mixed reward", ""),
    "valid_positions": ("step positions that count", "a group"),
    "steps": ("steps", "a rollout"),
    "kl": ("KL from the base model", "nats a token"),
    "kl_coef": ("KL coefficient β", ""),
    "dominant_right": ("dominant answer right", "% of answerable"),
    "step_truth": ("steps true", "% of checkable"),
    "answerable": ("questions answerable", "% of proposals"),
}
PERCENT = {"dominant_right", "step_truth", "answerable"}


def draw(folder: Path, name: str, settings: str) -> bytes:
    """The figure `name`, ablation or dynamics, of one experiment, as an SVG file.

    The same CSV files give the same bytes: neither a date nor matplotlib's version is in them.
    """
    out = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure = {"ablation": ablation, "dynamics": dynamics}[name](folder, settings)
        figure.savefig(out, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    # Paths to a tenth of a point: a third less.
    return re.sub(rb' d="[^"]+"', lambda path: re.sub(rb"(\.\d)\d+", rb"\1", path[0]), out.getvalue())


def ablation(folder: Path, settings: str) -> Figure:
    """Each configuration's difference from the checkpoint, paired by seed, with its 95 % interval."""
    table = read_accuracy(folder, settings)
    figure = Figure(figsize=(8, 3))
    for axes, (world, title) in zip(figure.subplots(1, 2, sharex=True, sharey=True), WORLDS.items(), strict=True):
        for decoding, (colour, fill, beside) in DECODINGS.items():
            found = differences(by_seed(table, world, decoding), "base")
            for place, mean in enumerate(found.values()):
                if mean.mean is not None:
                    axes.errorbar(
                        100 * mean.mean, place + beside, xerr=None if mean.half is None else 100 * mean.half,
                        fmt="o", color=colour, markerfacecolor=fill,
                    )  # fmt: skip
            axes.set_yticks(range(len(found)), [ROWS.get(row, row) for row in found])
        axes.axvline(0, color="#666666", linewidth=0.8)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title)
        axes.set_xlabel("difference from base, percentage points")
    axes.invert_yaxis()  # of both: they share it
    handles = [
        Line2D([], [], color=colour, marker="o", markerfacecolor=fill, label=decoding)
        for decoding, (colour, fill, _) in DECODINGS.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def dynamics(folder: Path, settings: str) -> Figure:
    """The course of training: a panel a series, its mean over seeds and a band from the lowest seed to the highest."""
    table = read_dynamics(folder, settings)
    courses = {row: table[table.row == row] for row in COURSES}
    warmup = warmup_end(courses["full"])
    figure = Figure(figsize=(8, 8.6))
    *panels, free = figure.subplots(5, 3, sharex=True).flat
    for axes, (name, (title, unit)) in zip(panels, PANELS.items(), strict=True):
        axes.axvspan(0, warmup, color=SHADE, linewidth=0)
        _panel(axes, courses, name, 100 if name in PERCENT else 1)
        axes.set_title(title)
        axes.set_ylabel(unit)
    for axes in panels[-3:]:  # the lowest of each column
        axes.set_xlabel("training step")
        axes.tick_params(labelbottom=True)
    free.axis("off")
    lines = [Line2D([], [], color=colour, label=ROWS[row]) for row, colour in COURSES.items()]
    band = Line2D([], [], color=BLACK, alpha=0.15, linewidth=7, label="lowest to highest seed")
    shade = Line2D([], [], color=SHADE, linewidth=7, label="warm-up of full")
    free.legend(handles=[*lines, band, shade], loc="center left")
    return figure


def warmup_end(full: pd.DataFrame) -> int:
    """The last step of the last iteration whose reward is still the answer reward; 0 where there is none."""
    mixed = full[full.reward != full.r_answer].step.min()
    before = full[full.step < mixed].step
    return 0 if before.empty else before.max()


def _panel(axes: Axes, courses: Mapping[str, pd.DataFrame], name: str, scale: int) -> None:
    for row, course in courses.items():
        seeds = scale * course.groupby("step")[name].agg(["mean", "min", "max"])
        axes.fill_between(seeds.index, seeds["min"], seeds["max"], color=COURSES[row], alpha=0.15, linewidth=0)
        axes.plot(seeds.index, seeds["mean"], color=COURSES[row])
