"""What `compare` is given: an eval file, a run, or runs with several seeds."""

import re
from pathlib import Path

from stages.errors import DataError
from stages.evaluation.compare import pool
from stages.evaluation.scores import Run, read_run

_SEED = re.compile(r"seed-(\d+)(?:\.parquet)?")


def read_side(path: Path) -> Run:
    """The evaluation at `path`: an eval file or its parts; of a run's folder the newest; of a folder of `seed-1`,
    `seed-2` and so on, each any of these, all of them pooled.

    Raises DataError where a run has none, or the seeds' are not of the same iteration.
    """
    seeds = {int(found[1]): each for each in _below(path) if (found := _SEED.fullmatch(each.name))}
    if not seeds:
        return read_run(_newest(path))
    files = {seed: _newest(seeds[seed]) for seed in sorted(seeds)}
    turns = {file.parent.name if file != seeds[seed] else "" for seed, file in files.items()}
    if len(turns) > 1:
        raise DataError(f"{path}: the seeds are evaluated after other iterations each ({', '.join(sorted(turns))})")
    runs = {seed: read_run(file) for seed, file in files.items()}
    return pool(path, runs) if len(runs) > 1 else next(iter(runs.values()))


def _newest(path: Path) -> Path:
    """The newest evaluation where `path` is a run's folder; else itself. Raises DataError for a run without one."""
    turns = [each for each in _below(path) if re.fullmatch(r"it\d+", each.name)]
    if not turns:
        return path
    files = [file for each in turns for file in (each / "eval.parquet", each / "eval") if file.exists()]
    if not files:
        raise DataError(f"{path}: no evaluation in this run; `run --benchmark` makes them")
    return max(files, key=lambda file: int(file.parent.name[2:]))


def _below(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []
