"""What the contract promises of rows, beyond their types: checked by `verify`, one group at a time."""

import math
from collections.abc import Iterator
from typing import Any

from stages.contract import ANSWER, Metadata, Row, group_id, trajectory_seed
from stages.parsing import parse_question
from stages.verification.credit import broken_credit

SHARED = ("group_index", "images_sha256", "question")  # by a group's rows
ROUNDING = 1e-6


def broken_promises(group: list[Row], metadata: Metadata) -> Iterator[str]:
    """What is wrong with the rows of one group, the proposer's first, of a shard with this metadata."""
    step = metadata.step + group[0]["group_index"] + 1
    passes: dict[str, list[Row]] = {}
    for row in group[1:]:
        passes.setdefault(row["pass"] or ANSWER, []).append(row)
    if metadata.stage != "propose":
        for name in {**metadata.passes, **passes}:
            yield from _broken_pass(name, passes, metadata.passes.get(name, {}), group[0])
    if _is_ours(metadata) and group[0]["group_id"] != group_id(metadata.seed, step, group[0]["images_sha256"] or []):
        yield "its group_id does not follow from seed, step and images"
    for row in group:
        for problem in _broken_row(row, group[0], metadata, step):
            yield f"{row['role']} {row['sample_index']}: {problem}"
    if "step_credit" in group[0]:
        yield from broken_credit(group, metadata.params.get("credit"))


def _broken_pass(name: str, passes: dict[str, list[Row]], params: dict[str, Any], proposal: Row) -> Iterator[str]:
    """What is wrong with a pass, which was made with `params`, within one group; `passes` are the group's rows."""
    rows, which = passes.get(name, []), "" if name == ANSWER else f" of pass {name}"
    if [row["sample_index"] for row in rows] != list(range(len(rows))):
        yield f"its sample_index{which} has gaps"
    of = params.get("of")
    samples = params.get("samples", len(rows))
    if of is None and proposal["reject_reason"] is None and len(rows) != (samples if proposal["question"] else 0):
        yield f"it has {len(rows)} rollouts{which}, and {samples} were asked for"
    if of is not None:
        parents = [row["parent_index"] for row in rows]
        there = {row["sample_index"] for row in passes.get(of, [])}
        if not there.issuperset(parents):
            yield f"it has rollouts{which} that are made of rows that are not there"
        elif any(parents.count(parent) != samples for parent in set(parents)):
            yield f"it has not {samples} rollouts{which} of each row that they are made of"


def _is_ours(metadata: Metadata) -> bool:
    """Whether a stage of this tool proposed; questions from elsewhere have ids and seeds of their own."""
    return bool(metadata.stage_params("propose"))


def _broken_row(row: Row, proposal: Row, metadata: Metadata, step: int) -> Iterator[str]:
    for name in SHARED:
        if row[name] != proposal[name] and not (name == "images_sha256" and row["images"] == []):
            yield f"its {name} is not its group's"
    pictures, hashes = row["images"] or (), row["images_sha256"]
    if hashes and pictures and len(hashes) != len(pictures):
        yield f"it has {len(pictures)} images, and {len(hashes)} hashes of them"
    token_ids, logprobs = row["token_ids"], row["logprobs"]
    if (token_ids is None) != (logprobs is None) or len(token_ids or ()) != len(logprobs or ()):
        yield "it has not one log-probability for each token"
    if not all(value is not None and -math.inf < value < ROUNDING for value in logprobs or ()):
        yield "a log-probability is not finite, or above zero"
    if row["finish_reason"] not in (None, "stop", "length"):
        yield f"its finish_reason is {row['finish_reason']!r}"
    if _is_ours(metadata):
        if row["seed"] != trajectory_seed(row["group_id"], row["role"], row["sample_index"], row["pass"]):
            yield "its seed does not follow from group_id, role, pass and sample_index"
        if row is proposal and not _is_left_out(row) and row["question"] != parse_question(row["completion"]):
            yield "its question is not the one in its completion"
    if metadata.stage == "score":
        yield from _broken_scores(row, step)


def _is_left_out(proposal: Row) -> bool:
    """Whether there was no proposal, or somebody took its question away and says why."""
    return proposal["completion"] is None or (proposal["question"] is None and proposal["reject_reason"] is not None)


def _broken_scores(row: Row, step: int) -> Iterator[str]:
    if row["step"] != step:
        yield f"its step is {row['step']}, and should be {step}"
    for name, highest in (("answer_prob", 1.0), ("entropy", math.inf), ("density", 1.0)):
        value = row[name]
        if value is not None and not (0.0 <= value < highest + ROUNDING):
            yield f"its {name} is {value}"
    if row["reward"] is not None and not math.isfinite(row["reward"]):  # somebody's own may be below zero
        yield f"its reward is {row['reward']}"
    if (row["answer"] is None) != (row["answer_key"] is None):
        yield "it has an answer without a key, or a key without an answer"
    if row["selected"] is False and row["reward"] is not None:
        yield "it has a reward, and is not selected"
