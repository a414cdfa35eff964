"""What the runs came to, from the small CSV files of docs/evidence/, and means over their seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from stages.errors import DataError
from stages.evaluation.statistics import holm, student
from tests.evidence.contenders import AT

ACCURACY = ("settings", "row", "seed", "world", "part", "decoding", "questions", "accuracy")
# The columns that describe a training iteration, behind settings, row, seed, iteration and step.
SERIES = (
    "proposer_reward", "entropy", "density", "step_similarity", "reward", "r_answer", "r_step", "valid_positions",
    "steps", "kl", "kl_coef", "dominant_right", "answerable", "step_truth",
)  # fmt: skip
DYNAMICS = ("settings", "row", "seed", "iteration", "step", *SERIES)
# The paper's rows, in its words, and ours; others follow as they come, under their own names.
ROWS = {
    "base": "base",
    "answer": "answer reward only",
    "answer-faster": "answer reward only, lr 3e-4",
    "step": "step reward only",
    "full": "full",
    "no-warmup": "without warm-up",
    "no-decay": "without position decay",
    "no-density": "without density weighting",
    "hidden": "full, steps by hidden states",
}
NO_SPREAD = 1e-9  # a standard deviation below this is rounding


@dataclass(frozen=True)
class Mean:
    """The mean over `n` seeds, half the width of its 95 % t-interval, and the two-sided p of a t-test that it is 0.

    mean is None without seeds, half with fewer than two, p also where all seeds came to the same.
    """

    n: int
    mean: float | None = None
    half: float | None = None
    p: float | None = None


def read_accuracy(folder: Path, settings: str) -> pd.DataFrame:
    """The rows of accuracy.csv under `settings`; none where there is no such file. Raises DataError."""
    key = ("settings", "row", "seed", "world", "part", "decoding")
    return _read(folder / "accuracy.csv", ACCURACY, key, settings)


def read_dynamics(folder: Path, settings: str) -> pd.DataFrame:
    """The rows of dynamics.csv under `settings`; none where there is no such file. Raises DataError."""
    return _read(folder / "dynamics.csv", DYNAMICS, ("settings", "row", "seed", "iteration"), settings)


def _read(path: Path, columns: tuple[str, ...], key: tuple[str, ...], settings: str) -> pd.DataFrame:
    texts = {"settings", "row", "world", "part", "decoding"}
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    try:
        kinds = {name: str if name in texts else "int64" if name in key else "float64" for name in columns}
        table = pd.read_csv(path, usecols=list(columns), dtype=kinds)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    twice = table[table.duplicated(list(key))]
    if len(twice):
        raise DataError(f"{path}, line {twice.index[0] + 2}: there is a line before it with the same {', '.join(key)}")
    return table[table.settings == settings]


def in_order(rows: Iterable[str]) -> list[str]:
    """Each row once: the paper's in its order, then the others as they come."""
    there = list(dict.fromkeys(rows))
    return [row for row in ROWS if row in there] + [row for row in there if row not in ROWS]


def by_seed(accuracy: pd.DataFrame, world: str, decoding: str, part: str = "all") -> pd.DataFrame:
    """Accuracies in [0, 1]: a line a seed, a column a configuration, NaN where that one has not been run."""
    own = accuracy[(accuracy.world == world) & (accuracy.decoding == decoding) & (accuracy.part == part)]
    return own.pivot(index="seed", columns="row", values="accuracy").reindex(columns=in_order(accuracy.row))


def end_kl(dynamics: pd.DataFrame) -> pd.DataFrame:
    """The mean KL from the base model over the last fifth of training, nats a token: a line a seed, a column a row."""
    ends = dynamics.groupby(["row", "seed"]).iteration.transform("max") * 4 / 5
    return dynamics[dynamics.iteration > ends].groupby(["seed", "row"]).kl.mean().unstack()


def at_distance(points: Mapping[float, float], kl: float) -> float:
    """What lies at a KL between points of KL and accuracy, linear in √KL; NaN beyond the farthest, and with none.

    √KL and not KL: it grows with how far the parameters move, and accuracy with it (as in arXiv 2210.10760).
    """
    if not points or kl > max(points):
        return float("nan")
    distances, values = zip(*sorted(points.items()), strict=True)
    return float(np.interp(np.sqrt(kl), np.sqrt(distances), values))


def matched(seeds: pd.DataFrame, kls: pd.DataFrame, kl: float) -> pd.DataFrame:
    """Each contender's accuracy at one distance from the base model, between its rows and the base: a line a seed, a
    column a contender; NaN where it never went so far, and no column where no seed did. seeds: by_seed; kls: end_kl,
    both of all rows."""
    found: dict[str, dict[int, float]] = {}
    for row in seeds:
        found.setdefault(row.split(AT)[0], {})
    for contender, own in found.items():
        rows = [row for row in seeds if row.split(AT)[0] == contender and row in kls]
        for seed in seeds.index:
            points = {kls.at[seed, row]: seeds.at[seed, row] for row in rows if seed in kls.index}
            points = {far: value for far, value in points.items() if not np.isnan(far + value)}
            base = seeds.at[seed, "base"] if "base" in seeds else float("nan")
            if contender == "base":
                own[seed] = base
            elif points and not np.isnan(base):
                own[seed] = at_distance({0.0: base, **points}, kl)
    return pd.DataFrame({name: pd.Series(own, dtype=float) for name, own in found.items()}).dropna(axis=1, how="all")


def over_seeds(values: Iterable[float]) -> Mean:
    """The mean of the values that are there: NaN is a seed that has not been run."""
    known = np.array([value for value in values if not np.isnan(value)])
    n = len(known)
    if n < 2:
        return Mean(n, *map(float, known))
    mean, spread = float(known.mean()), float(known.std(ddof=1))
    half = student(n - 1) * spread / n**0.5
    return Mean(n, mean, half, float(stats.ttest_1samp(known, 0).pvalue) if spread > NO_SPREAD else None)


def differences(seeds: pd.DataFrame, other: str) -> dict[str, Mean]:
    """How each other column of `by_seed` differs from the column `other`, over the seeds that both have. p is that of a
    paired t-test, adjusted by Holm for there being one a column."""
    if other not in seeds:
        return dict.fromkeys(seeds, Mean(0))
    found = {row: over_seeds(seeds[row] - seeds[other]) for row in seeds if row != other}
    tested = {row: mean.p for row, mean in found.items() if mean.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {row: replace(mean, p=adjusted.get(row)) for row, mean in found.items()}
