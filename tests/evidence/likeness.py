"""Whether embeddings tell which steps claim the same in other words:

    python -m tests.evidence.likeness FOLDER …     # likeness.csv, of rollouts as `step_truth` asks for them

Of the steps that are compared, at one place of one group, all pairs with different texts: one like the other where both
are the same in the world's own words. A threshold is the cosine at which the two kinds are told apart best, by the sum
of their shares on the right sides of it.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from stages.embedding import Step
from stages.errors import StageError
from stages.models.finding import locate_model
from stages.parsing import answer_key
from stages.policy import open_policy
from tests.evidence import records
from tests.evidence.prose import plain
from tests.evidence.separation import area, resampled
from tests.evidence.step_truth import QUESTIONS, RESAMPLES, SEED, embeddings, read_rollouts

Row = dict[str, Any]
MEASURED = ("area", "low", "high", "threshold", "same_above", "different_above")


@dataclass(frozen=True)
class Pairs:
    """Of each pair [P]: the cosine of its steps, whether they claim the same (1 or 0), and its group."""

    cosine: np.ndarray
    same: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, known: Mapping[Step, np.ndarray], groups: Mapping[int, int]) -> "Pairs":
        """groups: of each row."""
        rows: dict[int, list[Step]] = defaultdict(list)
        for step in known:
            rows[step.row].append(step)
        places: dict[tuple[int, int], list[Step]] = defaultdict(list)
        for row, steps in rows.items():
            for position, step in enumerate(sorted(steps, key=lambda step: step.start)):
                places[groups[row], position].append(step)
        found = [
            (float(known[one] @ known[other] / lengths), claimed(one) == claimed(other), group)
            for (group, _), steps in places.items()
            for one, other in combinations(steps, 2)
            if answer_key(one.text) != answer_key(other.text)
            and (lengths := np.linalg.norm(known[one]) * np.linalg.norm(known[other])) > 0
        ]
        cosine, same, group = np.array(found, np.float64).reshape(-1, 3).T
        return cls(cosine, same, group.astype(int))


def claimed(step: Step) -> str:
    """What a step says, in the world's own words."""
    return answer_key(plain(step.text)) or ""


def told_apart(same: np.ndarray, different: np.ndarray) -> tuple[float, float, float]:
    """The threshold between the cosines of pairs of one kind [n] and of the other [m], each with one at least, and the
    shares of both kinds that are at it or above."""
    thresholds = np.unique(same)
    above = 1 - np.searchsorted(np.sort(same), thresholds) / len(same)
    wrong = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    best = int(np.argmax(above - wrong))
    return float(thresholds[best]), float(above[best]), float(wrong[best])


def figures(folder: Path, groups: int) -> Iterator[Row]:
    """The rows of the CSV for the base model's rollouts in `folder`, of its first `groups` questions."""
    with chdir(folder):
        source, table = read_rollouts(groups)
        model = locate_model(None, source.metadata.model)
        of_row = dict(enumerate(table["group_index"].to_pylist()))
        for name, known in embeddings(table, model, open_policy(None), source.metadata):
            pairs = Pairs.of(known, of_row)
            same, different = (pairs.cosine[pairs.same == kind] for kind in (1, 0))
            row = {"rollouts": folder.name, "embedding": name, "same": len(same), "different": len(different)}
            if len(same) and len(different):
                seen = area(pairs.cosine, pairs.same, pairs.group, resampled(pairs.group, RESAMPLES, SEED))
                values = (seen.estimate, *seen.interval, *told_apart(same, different))
                yield row | dict(zip(MEASURED, (f"{value:.4f}" for value in values), strict=True))


def main(
    folders: list[Path],
    out: Annotated[Path, typer.Option()] = Path("docs/evidence"),
    groups: Annotated[int, typer.Option(help="Of how many questions.")] = QUESTIONS,
) -> None:
    """Measures every embedding on the rollouts in each folder, and writes likeness.csv."""
    records.check_there(folders, "rollouts.parquet")
    records.write_records(out / "likeness.csv", [row for folder in folders for row in figures(folder, groups)])
    typer.echo(out / "likeness.csv")


if __name__ == "__main__":
    try:
        typer.run(main)
    except StageError as error:
        sys.exit(str(error))
