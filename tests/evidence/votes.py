"""How often each vote is right, before anything is learned from it:

    python -m tests.evidence.votes FOLDER …     # votes.csv, of what `step_truth` asks

Over questions of the world's own that its charts answer. In each folder many.parquet has 40 rollouts of each, and
greedy.parquet the greedy one (`rollout --samples 1 --temperature 0`).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ireasoner_cli.demo import world
from stages import shards
from stages.contract import SOLVER, TRAJECTORY
from stages.errors import StageError
from stages.evaluation.statistics import student
from stages.parsing import parse_completion
from stages.rewards.cast import Cast
from stages.rewards.consensus import NO_ANSWER, consensus
from stages.rewards.votes import load as load_vote
from tests.evidence import records
from tests.evidence.step_truth import QUESTIONS, SEED

SAMPLES = (5, 10, 40)
VOTES = ("count", "likelihood", "weakest-token")
GREEDY = "greedy answer"
ROLLOUTS = ("many.parquet", "greedy.parquet")
Row = dict[str, Any]


def by_question(file: str) -> dict[int, list[Row]]:
    """The Solver's rollouts with tokens, by the number of their question."""
    found: dict[int, list[Row]] = {}
    for table in shards.Shards([Path(file)], "rollout", TRAJECTORY).tables(QUESTIONS):
        for row in table.select(
            ["group_index", "role", "completion", "logprobs", "question", "images_sha256"]
        ).to_pylist():
            if row["role"] == SOLVER and row["logprobs"]:
                found.setdefault(row["group_index"], []).append(row)
    return found


def elected(rows: Sequence[Row], vote: str) -> str | None:
    """The key of the answer that a group's rollouts elect, None where none has one."""
    keys = [parse_completion(row["completion"] or "").answer_key for row in rows]
    there = sorted({key for key in keys if key is not None})
    number = np.array([NO_ANSWER if key is None else there.index(key) for key in keys])
    group, unknown = np.zeros(len(rows), np.int64), np.full(len(rows), np.nan)
    logprobs = [np.array(row["logprobs"]) for row in rows]
    sums, least = (np.array([getattr(own, what)() for own in logprobs]) for what in ("sum", "min"))
    weights = load_vote(vote)(Cast(group, number != NO_ANSWER, sums, least, unknown))
    dominant = consensus(group, number, 1, weights).dominant
    return there[number[np.argmax(dominant)]] if dominant.any() else None


def figures(folder: Path, charts: Mapping[str, world.Chart]) -> Iterator[Row]:
    """The rows of the CSV for the rollouts in `folder`."""
    with chdir(folder):
        sampled, greedy = map(by_question, ROLLOUTS)
    asked = {index: right for index, rows in sampled.items() if (right := records.true_answers(rows[0], charts))}
    asked = {index: right for index, right in asked.items() if index in greedy}
    sure = np.array([elected(greedy[index], "count") in right for index, right in asked.items()], float)
    for samples in SAMPLES:
        found = {
            vote: np.array([elected(sampled[index][:samples], vote) in right for index, right in asked.items()], float)
            for vote in VOTES
        }
        found[GREEDY] = sure
        for vote, own in found.items():
            less = own - found["count"]
            half = student(len(own) - 1) * less.std(ddof=1) / len(own) ** 0.5
            yield {
                **{"rollouts": folder.name, "samples": samples, "vote": vote, "questions": len(own)},
                **{"right": f"{own.mean():.4f}", "more": f"{less.mean():.4f}", "half": f"{half:.4f}"},
            }


def main(folders: list[Path], out: Annotated[Path, typer.Option()] = Path("docs/evidence")) -> None:
    """Counts the votes of the rollouts in each folder, and writes votes.csv."""
    records.check_there(folders, *ROLLOUTS)
    charts = records.charts(QUESTIONS, SEED)
    records.write_records(out / "votes.csv", [row for folder in folders for row in figures(folder, charts)])
    typer.echo(out / "votes.csv")


if __name__ == "__main__":
    try:
        typer.run(main)
    except StageError as error:
        sys.exit(str(error))
