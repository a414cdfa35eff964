"""A run's folder: its iterations and what they hold, whichever of `ireasoner run`, a shell loop or a Makefile wrote it.

runs/first/it0001/{questions,rollouts,scored}.parquet  policy/  eval.parquet      (a directory of parts for any shard)
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stages import shards
from stages.contract import Metadata
from stages.errors import DataError, UsageError
from stages.policy import METRICS_FILE, STATE_FILE

OUTPUTS = ("questions", "rollouts", "scored")  # in the order in which an iteration writes them
_NUMBERED = re.compile(r"it\d+")


@dataclass(frozen=True)
class Iteration:
    """One turn of the loop: a folder with the shards of one policy step, and the policy that came of them."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def output(self, name: str) -> Path | None:
        """`name.parquet` or the directory of parts `name`, if it has rows, finished or not; None when neither has."""
        for path in (self.folder / f"{name}.parquet", self.folder / name):
            with suppress(UsageError, DataError):
                shards.find_output(path)
                return path
        return None

    @property
    def furthest(self) -> Path:
        """The output of the last stage that has written rows."""
        return next(path for path in map(self.output, reversed(OUTPUTS)) if path)

    @property
    def metrics(self) -> Path | None:
        path = self.folder / "policy" / METRICS_FILE
        return path if path.is_file() else None

    @property
    def policy(self) -> Path | None:
        path = self.folder / "policy"
        return path if (path / STATE_FILE).is_file() else None


def find_iterations(run: Path) -> list[Iteration]:
    """The iterations in `run`: `run` itself, when it holds shards, and its folders it0001, it0002, …; where there are
    neither, any of its folders that hold shards, in the order of their names. Empty when there are none."""
    if not run.is_dir():
        return []
    folders = sorted(folder for folder in run.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    numbered = sorted((folder for folder in folders if _NUMBERED.fullmatch(folder.name)), key=lambda f: int(f.name[2:]))
    candidates = [run, *numbered] if numbered or _holds_shards(run) else folders
    return [Iteration(folder) for folder in candidates if _holds_shards(folder)]


def _holds_shards(folder: Path) -> bool:
    return any(Iteration(folder).output(name) for name in OUTPUTS)


def find_evaluations(run: Path, iterations: list[Iteration]) -> Iterator[tuple[Path, Metadata]]:
    """What `eval` wrote into the run's folder and its iterations', each a file or a whole directory of parts."""
    folders = dict.fromkeys([run, *(iteration.folder for iteration in iterations)] if run.is_dir() else [])
    for folder in folders:
        for path in sorted(folder.iterdir()):
            named = not path.name.startswith(".") and path.stem not in (*OUTPUTS, "policy")
            if not named or not (path.suffix == ".parquet" or (path.is_dir() and any(path.glob("part-*.parquet")))):
                continue
            try:
                metadata = shards.read_metadata(shards.input_files([path])[0])
            except (DataError, UsageError):  # a benchmark, or a set of parts that is not whole yet
                continue
            if metadata.stage == "eval":
                yield path, metadata
