"""The tables of docs/evidence.md, in Markdown, each from the CSV files in `folder`; "" where there is nothing to show.

Accuracies and shares are in %; ± is a 95 % t-interval over seeds.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.errors import DataError
from tests.evidence.results import (
    ROWS,
    Mean,
    by_seed,
    differences,
    end_kl,
    in_order,
    matched,
    over_seeds,
    read_accuracy,
    read_dynamics,
)

DECODINGS = {"greedy": "greedy", "sampled": "sampled", "majority": "majority of 5"}
WORLDS = ("home", "abroad")
SHARES = {"dominant_right": "dominant answer right", "step_truth": "steps true", "answerable": "answerable"}


def accuracy(folder: Path, settings: str, world: str) -> str:
    """What each configuration came to: three readings of its answers."""
    table = read_accuracy(folder, settings)
    means = [{row: over_seeds(column) for row, column in by_seed(table, world, each).items()} for each in DECODINGS]
    lines = [(_name(row), str(means[0][row].n), *(_accuracy(column[row]) for column in means)) for row in means[0]]
    return _markdown(("configuration", "seeds", *DECODINGS.values()), lines)


def against_answer(folder: Path, settings: str, world: str) -> str:
    """How each configuration differs from the answer reward alone, and whether by more than the seeds do."""
    table = read_accuracy(folder, settings)
    means = [differences(by_seed(table, world, each), "answer") for each in DECODINGS]
    lines = [(_name(row), str(means[0][row].n), *(_tested(column[row]) for column in means)) for row in means[0]]
    return _markdown(("configuration", "seeds", *DECODINGS.values()), lines)


def against_base(folder: Path, settings: str) -> str:
    """How far each configuration came from the checkpoint, in both worlds."""
    table = read_accuracy(folder, settings)
    means = [differences(by_seed(table, world, each), "base") for world in WORLDS for each in DECODINGS]
    lines = [(_name(row), *(_difference(column[row]) for column in means)) for row in means[0]]
    return _markdown(("configuration", *(f"{world}, {each}" for world in WORLDS for each in DECODINGS.values())), lines)


def parts(folder: Path, settings: str, world: str, decoding: str) -> str:
    """Mean accuracy by level and by type of question, and what the full reward changed there."""
    table = read_accuracy(folder, settings)
    table = table[(table.world == world) & (table.decoding == decoding)]
    rows = in_order(table.row)
    lines = []
    for part in sorted(table.part.unique(), key=lambda part: (part != "all", not part.startswith("level"), part)):
        seeds = by_seed(table, world, decoding, part)
        means = [_percent(over_seeds(seeds[row]).mean) for row in rows]
        change = differences(seeds, "base").get("full", Mean(0))
        questions = table[table.part == part].questions.mean()
        lines.append((part, f"{questions:.0f}", *means, _percent(change.mean, "+")))
    return _markdown(("", "questions", *map(_name, rows), "full − base"), lines)


def early_late(folder: Path, settings: str) -> str:
    """What the truth says of proposals and rollouts, in the first and the last fifth of training; of rows that ask what
    the world has answers to, and no puzzle, alone."""
    table = read_dynamics(folder, settings)
    table = table[table.groupby("row").dominant_right.transform("count") > 0]
    ends = table.groupby(["row", "seed"]).iteration.transform("max")
    first, last = table[table.iteration <= ends / 5], table[table.iteration > ends * 4 / 5]
    lines = []
    for row in in_order(table.row):
        means = [
            over_seeds(end[end.row == row].groupby("seed")[share].mean()) for share in SHARES for end in (first, last)
        ]
        lines.append((_name(row), *map(_accuracy, means)))
    heading = [f"{title}, {end}" for title in SHARES.values() for end in ("first", "last")]
    return _markdown(("configuration", *heading), lines)


def at_kl(folder: Path, settings: str, world: str, kl: str) -> str:
    """What each contender comes to at one KL from the base model, read between its learning rates, and how far that is
    from the base."""
    table, kls = read_accuracy(folder, settings), end_kl(read_dynamics(folder, settings))
    columns = [matched(by_seed(table, world, each), kls, float(kl)) for each in DECODINGS]
    changes = [differences(column, "base") for column in columns]
    lines = []
    for name in columns[0]:
        means = [over_seeds(column[name]) for column in columns]
        against = [_tested(change[name]) if name in change else "" for change in changes]
        cells = (cell for pair in zip(map(_accuracy, means), against, strict=True) for cell in pair)
        lines.append((_name(name), str(means[0].n), *cells))
    heading = [cell for each in DECODINGS.values() for cell in (each, f"{each} − base")]
    return _markdown(("contender", "seeds", *heading), lines)


def at_kl_against(folder: Path, settings: str, world: str, kl: str, other: str) -> str:
    """How each contender differs from one of them at one KL. An underscore in `other` stands for a space."""
    table, kls = read_accuracy(folder, settings), end_kl(read_dynamics(folder, settings))
    means = [
        differences(matched(by_seed(table, world, each), kls, float(kl)), other.replace("_", " ")) for each in DECODINGS
    ]
    lines = [(_name(row), str(means[0][row].n), *(_tested(column[row]) for column in means)) for row in means[0]]
    return _markdown(("contender", "seeds", *DECODINGS.values()), lines)


def sweep(folder: Path, settings: str) -> str:
    """What each row of a sweep came to, how far that is from the checkpoint, and truth and KL in the last fifth of
    training."""
    table = read_accuracy(folder, settings)
    seeds = [by_seed(table, "home", each) for each in DECODINGS]
    seeds.append(by_seed(table, "abroad", "sampled"))
    changes = differences(seeds[1], "base")
    course = read_dynamics(folder, settings)
    ends = course[course.iteration > course.groupby(["row", "seed"]).iteration.transform("max") * 4 / 5]
    lines = []
    for row in seeds[0]:
        end = ends[ends.row == row]
        kl = over_seeds(end.kl).mean
        lines.append(
            (
                _name(row),
                str(seeds[0][row].count()),
                *(_accuracy(over_seeds(column[row])) for column in seeds),
                _difference(changes.get(row, Mean(0))),
                _percent(over_seeds(end.dominant_right).mean),
                "–" if kl is None else f"{kl:.3f}",
            )
        )
    heading = ("setting", "seeds", *DECODINGS.values(), "abroad, sampled", "sampled − base", "dominant right", "KL")
    return _markdown(heading, lines)


def step_truth(folder: Path) -> str:
    """step-truth.csv as it is, numbers to three decimals."""
    path = folder / "step-truth.csv"
    if not path.is_file():
        return ""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return _markdown(tuple(table.columns), [tuple(map(_rounded, line)) for line in table.itertuples(index=False)])


def step_signals(folder: Path) -> str:
    """From step-signals.csv: each signal's share of pairs ranked right, among all and where the consensus is wrong."""
    return _pivot(
        folder / "step-signals.csv",
        "signal of a step",
        "signal",
        ("rollouts", "among"),
        "{}, {}",
        lambda own: f"{own.estimate:.3f} ({own.low:.3f} to {own.high:.3f})",
    )


def votes(folder: Path) -> str:
    """votes.csv: how often each is right, and how much more than the majority's."""

    def cell(own: Any) -> str:
        return _percent(own.right) + ("" if own.half == 0 else f" ({_difference(Mean(0, own.more, own.half))})")

    return _pivot(folder / "votes.csv", "right in %", "vote", ("rollouts", "samples"), "{}, of {}", cell)


def _pivot(
    path: Path, title: str, line: str, columns: tuple[str, str], heading: str, cell: Callable[[Any], str]
) -> str:
    """A line for each value of `line` and a column for each of `columns`, in the order of the file; nothing where there
    is no file, or for a cell that has no row."""
    if not path.is_file():
        return ""
    table = pd.read_csv(path)
    there = list(dict.fromkeys(zip(*(table[name] for name in columns), strict=True)))
    shown = table.set_index([*columns, line])
    lines = [
        (name, *(cell(shown.loc[(*column, name)]) if (*column, name) in shown.index else "" for column in there))
        for name in dict.fromkeys(table[line])
    ]
    return _markdown((title, *(heading.format(*column) for column in there)), lines)


def likeness(folder: Path) -> str:
    """likeness.csv, without the counts."""
    path = folder / "likeness.csv"
    if not path.is_file():
        return ""
    table = pd.read_csv(path)
    lines = [
        (
            f"{row.embedding}",
            f"{row.area:.3f} ({row.low:.3f} to {row.high:.3f})",
            *(f"{value:.2f}".replace("-", "−") for value in (row.threshold, row.same_above, row.different_above)),
        )
        for row in table.itertuples()
    ]
    return _markdown(("embedding", "pairs told apart", "best threshold", "same above it", "others above it"), lines)


def step_positions(folder: Path, embedding: str) -> str:
    """From step-truth-all.csv: how well the similarity of one step tells true from false, by its position; over all
    steps there, and over pairs of one group. An underscore in `embedding` stands for a space."""
    path = folder / "step-truth-all.csv"
    if not path.is_file():
        return ""
    table = pd.read_csv(path)
    own = table[(table.embedding == embedding.replace("_", " ")) & (table.measure == "step") & table.position.notna()]
    columns = list(dict.fromkeys(zip(own.rollouts, own.among, strict=True)))
    lines = []
    for position in sorted(own.position.unique()):
        here = own[own.position == position].set_index(["rollouts", "among"])
        shown = [here.loc[column] for column in columns if column in here.index]
        if len(shown) == len(columns):
            cells = (f"{each.estimate:.3f} ({each.low:.3f} to {each.high:.3f})" for each in shown)
            lines.append((f"{position:.0f}", *cells))
    return _markdown(("position", *(f"{rollouts}, {among}" for rollouts, among in columns)), lines)


TABLES: dict[str, Callable[..., str]] = {
    "accuracy": accuracy,
    "against-answer": against_answer,
    "against-base": against_base,
    "parts": parts,
    "early-late": early_late,
    "at-kl": at_kl,
    "at-kl-against": at_kl_against,
    "sweep": sweep,
    "step-truth": step_truth,
    "step-positions": step_positions,
    "step-signals": step_signals,
    "votes": votes,
    "likeness": likeness,
}


def _markdown(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others, which are numbers, to the right."""
    body = [f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines]
    rule = f"| --- |{' ---: |' * (len(heading) - 1)}"
    return "\n".join([f"| {' | '.join(heading)} |", rule, *body]) if body else ""


def _name(row: str) -> str:
    return ROWS.get(row, row)


def _percent(share: float | None, sign: str = "") -> str:
    if share is None:
        return "–"
    # + 0.0: what rounds to nothing is not negative.
    return f"{round(100 * share, 1) + 0.0:{sign}.1f}".replace("-", "−")


def _accuracy(mean: Mean, sign: str = "") -> str:
    """With its interval, which one seed has none of."""
    return _percent(mean.mean, sign) + (f" ± {_percent(mean.half)}" if mean.half is not None else "")


def _difference(mean: Mean) -> str:
    return _accuracy(mean, "+")


def _tested(mean: Mean) -> str:
    if mean.p is None:
        return _difference(mean)
    return f"{_difference(mean)} ({'p < 0.001' if mean.p < 0.001 else f'p = {mean.p:.3f}'})"


def _rounded(cell: str) -> str:
    try:
        return f"{float(cell):.3f}".replace("-", "−") if "." in cell else cell
    except ValueError:
        return cell
