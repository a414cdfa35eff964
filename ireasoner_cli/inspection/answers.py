"""An evaluation's questions for a person to look at: the wrong ones, or the right ones, type by type."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from stages import shards
from stages.contract import EVALUATED, Row

_SHARED = ("id", "task", "type", "question", "answers", "image_sha256")


@dataclass(frozen=True)
class Asked:
    """A question of a benchmark and the answers to it, as rows of the evaluation, at least one of which has a score."""

    place: int
    rows: list[Row]

    @property
    def kind(self) -> tuple[str, str]:
        """Task and type."""
        return self.rows[0]["task"] or "", self.rows[0]["type"] or ""

    @property
    def score(self) -> float:
        """The mean of the answers' scores."""
        scores = [row["score"] for row in self.rows if row["score"] is not None]
        return sum(scores) / len(scores)

    def to_json(self) -> Row:
        shared = {name: self.rows[0][name] for name in _SHARED}
        samples = [{name: value for name, value in row.items() if name not in _SHARED} for row in self.rows]
        return {**shared, "score": self.score, "samples": samples}


def choose(files: Sequence[Path], wrong: bool, top: int) -> list[Asked]:
    """Of each type the `top` questions answered worst of those that are not wholly right; or, unless `wrong`, answered
    best of those not wholly wrong. The type of the lowest mean score comes first, or of the highest."""
    sign = 1 if wrong else -1
    chosen: dict[tuple[str, str], list[Asked]] = {}
    totals: dict[tuple[str, str], list[float]] = {}
    for asked in _read(files):
        total = totals.setdefault(asked.kind, [0.0, 0])
        total[0], total[1] = total[0] + asked.score, total[1] + 1
        if asked.score < 1 if wrong else asked.score > 0:
            own = [*chosen.get(asked.kind, []), asked]
            chosen[asked.kind] = heapq.nsmallest(top, own, key=lambda each: (sign * each.score, each.place))
    kinds = sorted(chosen, key=lambda kind: (sign * totals[kind][0] / totals[kind][1], kind))
    return [asked for kind in kinds for asked in chosen[kind]]


def _read(files: Sequence[Path]) -> Iterator[Asked]:
    """The questions with at least one score, in file order."""
    rows = (row for file in files for batch in shards.read_batches(file, EVALUATED) for row in batch.to_pylist())
    for place, (_, own) in enumerate(groupby(rows, key=lambda row: (row["task"], row["id"]))):
        asked = Asked(place, list(own))
        if any(row["score"] is not None for row in asked.rows):
            yield asked
