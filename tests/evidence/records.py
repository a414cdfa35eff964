"""What a run came to, read from its Parquet files: accuracies on the held-out questions, and the course of training."""

import csv
import fcntl
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from ireasoner_cli.demo import world
from ireasoner_cli.demo.checker import check_steps
from stages import shards
from stages.contract import ANSWER, METRICS, PROPOSER, SCORED, SOLVER
from stages.errors import DataError
from stages.evaluation.scores import Answered, read_run
from stages.parsing import answer_key
from tests.evidence.prose import plain_steps

READ = pa.schema([column for column in SCORED if column.name not in ("images", "token_ids", "logprobs", "prompt")])

Record = dict[str, Any]


def accuracies(greedy: Path, sampled: Path) -> list[Record]:
    """The `world`, `part`, `decoding`, `questions` and `accuracy` of two eval files of the benchmark."""
    readings: tuple[tuple[str, Path, Callable[[Answered], float]], ...] = (
        ("greedy", greedy, lambda asked: asked.score),
        ("sampled", sampled, lambda asked: asked.score),
        ("majority", sampled, lambda asked: asked.majority),
    )
    records = []
    for decoding, path, score in readings:
        scores: dict[tuple[str, str], list[float]] = defaultdict(list)
        (asked,) = read_run(path).tasks.values()
        for question in asked:
            level = int(question.id.removeprefix("level").split("-")[0])
            place = "abroad" if level in world.ABROAD else "home"
            for part in ("all", f"level {level}", question.type):
                scores[place, part].append(score(question))
        records += [
            {"world": place, "part": part, "decoding": decoding, "questions": len(own), "accuracy": fmean(own)}
            for (place, part), own in sorted(scores.items())
        ]
    return records


def charts(count: int, seed: int, levels: Sequence[int] = world.HOME) -> dict[str, world.Chart]:
    """The charts of `world.write_pool`, by the SHA-256 of their files."""
    drawn = world.pool(count, seed, levels)
    return {hashlib.sha256(world.to_png(world.render(chart))).hexdigest(): chart for chart in drawn}


def iteration(folder: Path, truth: Mapping[str, world.Chart]) -> Record:
    """The means of one iteration by the names of SERIES, and its `step`; None where there is nothing to take one of. Of
    the Solver's rows those of the pass `answer` count alone."""
    rows = shards.read_table(folder / "scored.parquet", READ).to_pylist()
    metrics = shards.read_table(folder / "policy" / "metrics.parquet", METRICS).to_pylist()
    learned = [row for row in metrics if row["role"] == SOLVER]
    solver = [row for row in rows if row["role"] == SOLVER and (row["pass"] or ANSWER) == ANSWER]
    proposer = [row for row in rows if row["role"] == PROPOSER]
    groups: dict[str, list[Record]] = defaultdict(list)
    for row in solver:
        if row["dominant"]:
            groups[row["group_id"]].append(row)
    solutions = {row["group_id"]: true_answers(row, truth) for row in proposer}
    return {
        "step": max(row["step"] for row in rows),
        "proposer_reward": _mean(row["reward"] for row in proposer),
        "entropy": _mean(row["entropy"] for row in proposer),
        "density": _mean(len(own) / own[0]["size"] for own in _sized(groups, solver)),
        "step_similarity": _mean(cosine for row in solver for cosine in row["step_similarity"] or ()),
        "reward": _mean(row["reward"] for row in solver),
        "r_answer": _mean(row["r_answer"] for row in solver),
        "r_step": _mean(row["r_step"] for row in solver),
        "valid_positions": _mean(
            max(sum(cosine is not None for cosine in row["step_similarity"] or ()) for row in own)
            for own in groups.values()
        ),
        "steps": _mean(len(row["steps"]) for row in solver),
        "kl": _mean(row["kl"] for row in learned),
        "kl_coef": _mean(row["kl_coef"] for row in learned),
        "dominant_right": _mean(
            own[0]["answer_key"] in keys for group, own in groups.items() if (keys := solutions[group])
        ),
        "answerable": _mean(bool(keys) for keys in solutions.values()),
        "step_truth": _mean(
            verdict
            for row in solver
            for verdict in check_steps(plain_steps(row["steps"] or ()), truth[row["images_sha256"][0]])
        ),
    }


def _sized(groups: Mapping[str, list[Record]], solver: Iterable[Record]) -> Iterable[list[Record]]:
    """The dominant groups, every row with the `size` of its whole group."""
    sizes: dict[str, int] = defaultdict(int)
    for row in solver:
        sizes[row["group_id"]] += 1
    return [[{**row, "size": sizes[group]} for row in own] for group, own in groups.items()]


def true_answers(row: Record, charts: Mapping[str, world.Chart]) -> set[str]:
    """The keys of the right answers to a row's question; none where it is not the world's, or has no single answer."""
    ask = world.understand(row["question"] or "")
    solution = ask and world.solve(charts[row["images_sha256"][0]], ask)
    return {answer_key(answer) for answer in solution.answers} if solution else set()


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def write_records(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Writes `records`, one at least, as a CSV file, into a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def check_there(folders: Iterable[Path], *files: str) -> None:
    """Raises DataError for a folder without one of the files."""
    for folder in folders:
        for file in files:
            if not (folder / file).is_file():
                raise DataError(f"{folder}: has no {file}; make it by `step_truth ask` and `ireasoner rollout`")


def replace_records(path: Path, columns: tuple[str, ...], key: Record, records: Iterable[Record]) -> None:
    """Puts `records` into the CSV file in place of those with the same `key`, behind the others. Two experiments may do
    so at once. Raises DataError for a file with other columns."""
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        _replace(path, columns, key, records)
    finally:
        os.close(folder)


def _replace(path: Path, columns: tuple[str, ...], key: Record, records: Iterable[Record]) -> None:
    old = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    if old and tuple(old[0]) != columns:
        raise DataError(f"{path}: has the columns {', '.join(old[0])} instead of {', '.join(columns)}")
    kept = [row for row in old if any(row[name] != str(value) for name, value in key.items())]
    unfinished = path.with_suffix(".partial")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        writer.writerows({**key, **{name: _brief(value) for name, value in record.items()}} for record in records)
    os.replace(unfinished, path)


def _brief(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
