"""What must hold of credit by step, whoever computed it: of each row, and of its sums."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from stages.contract import ANSWER, SOLVER, Row
from stages.parsing import answer_key
from stages.rewards.parts import broken_parts, per_token

ROUNDING = 1e-5  # of float32, and of what is added up


def broken_credit(group: Sequence[Row], estimator: str | None) -> Iterator[str]:
    """What is wrong with CREDIT in the rows of one group, of a shard with these columns.

    By `branching` the sum over a path is the mean reward of those with the same path, less the pass's; by `trust` that
    over a row's tokens is the row's advantage times their number; by `vote` that over the rows at a place is 0.
    """
    passes: dict[str, list[Row]] = {}
    for row in group:
        learned = row["role"] == SOLVER and row["reward"] is not None and bool(row["token_ids"])
        if problem := _broken_row(row, learned):
            yield f"{row['role']} {row['sample_index']}: {problem}"
            return
        if learned:
            passes.setdefault(row["pass"] or ANSWER, []).append(row)
    for rows in passes.values():
        mean = sum(row["reward"] for row in rows) / len(rows)
        if estimator == "vote":
            yield from _broken_places(rows)
        elif estimator in ("branching", "trust"):
            for row in rows:
                if estimator == "trust":
                    found, wanted = _mean(row), row["reward"] - mean
                else:
                    path = _path(row)
                    like = [other["reward"] for other in rows if other is row or (path and _path(other) == path)]
                    found, wanted = sum(row["step_credit"]), sum(like) / len(like) - mean
                if not math.isclose(found, wanted, rel_tol=ROUNDING, abs_tol=ROUNDING):
                    which = f"solver {row['sample_index']}"
                    yield f"{which}: its step_credit comes to {found:.6g}, and should to {wanted:.6g}"


def _broken_row(row: Row, learned: bool) -> str | None:
    credit, begins = row["step_credit"], row["step_tokens"]
    if not learned:
        return None if credit is None and begins is None else "it has step_credit, and is not learned from"
    if credit is None or begins is None or not len(credit) == len(begins) == len(row["steps"]) + 1:
        return "it has not one step_credit and one of step_tokens for each of its steps and its answer"
    return broken_parts(credit, begins, len(row["token_ids"]))


def _path(row: Row) -> tuple[Any, ...] | None:
    """What the row says, step by step, like steps being the same; None without an answer, which is like nothing."""
    return None if row["answer_key"] is None else (*map(answer_key, row["steps"]), row["answer_key"])


def _mean(row: Row) -> float:
    """The mean of the credit over the row's tokens."""
    return fmean(per_token(row["step_credit"], row["step_tokens"], len(row["token_ids"])))


def _broken_places(rows: Sequence[Row]) -> Iterator[str]:
    places: dict[int, float] = {}
    for row in rows:
        for place, value in enumerate(row["step_credit"]):
            place = -1 if place == len(row["steps"]) else place
            places[place] = places.get(place, 0.0) + value
    for place, total in places.items():
        if abs(total) > ROUNDING * len(rows):
            yield f"step_credit at {'the answer' if place < 0 else f'step {place + 1}'} comes to {total:.6g}, not to 0"
