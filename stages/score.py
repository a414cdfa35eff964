"""`score`: every reward, from the rollouts alone.

    rollouts.parquet ──▶ scored.parquet

Reads the trajectories in blocks of whole groups, parses the Solver's completions, embeds their reasoning steps
(`embedding`), and adds the columns that `update` learns from. Loads the tokenizer and the embedding table; the model,
with the policy on it, for hidden states only.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages import shards
from stages.contract import PROPOSER, SCORE_COLUMNS, SCORED, TRAJECTORY, UNREADABLE, Metadata
from stages.embedding import Step, StepEmbedder
from stages.embedding.static import StaticEmbedder
from stages.job import Job, Start
from stages.models.finding import locate_model
from stages.parameters import Call, recorded
from stages.parameters.sampling import Pixels
from stages.parameters.score import ScoreParams
from stages.parsing import Completion, parse_completion
from stages.policy import Policy
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.rewards.answer import answer_reward
from stages.rewards.consensus import NO_ANSWER, Consensus, consensus
from stages.rewards.proposer import proposer_reward
from stages.rewards.schedule import step_weight
from stages.rewards.step import compared_steps, step_reward, step_similarity

GROUPS_PER_BLOCK = 256
STEPS_AT_ONCE = 512  # bounds the [steps, width] and [tokens, width] arrays in memory


def score(inputs: Sequence[Path], params: ScoreParams, call: Call = Call(), progress: Progress = SILENT) -> Result:
    """Writes the scored shard. The model may lie elsewhere now than the rollouts record, and of the policy they were
    sampled from only hidden states have need.

    Raises UsageError, DataError and EngineError as `shards`, `Start` and `HiddenEmbedder` do.
    """
    rollouts = shards.Shards(inputs, "rollout", TRAJECTORY)
    if params.embedding == "hidden":
        start = Start.recorded(call, rollouts)
    else:
        unread = Policy(None, None, rollouts.metadata.policy)
        start = Start(locate_model(call.model, rollouts.metadata.model), unread)
    job = Job(
        "score",
        call,
        start,
        output=shards.output_path(call.out, "scored", inputs),
        params={**recorded(params), "rollout": rollouts.metadata.params},
        seed=rollouts.metadata.seed,
        inputs=rollouts.inputs,
        total=call.at_most(rollouts.group_count),
    )
    if there := job.there():
        return there

    tally = Tally()
    load = partial(_embedder, params, start, rollouts.metadata)
    with job.writing(SCORED, progress) as scored, scored.using(load) as (embedder, groups_per_block):
        for block in rollouts.tables(groups_per_block, scored.left):
            columns = score_block(block, params, embedder, rollouts.metadata.policy.step)
            tally.add(columns)
            table = pa.table([*block.columns, *columns.columns], schema=SCORED)
            rows = table if groups_per_block > 1 else table.to_pylist()
            scored.write(rows, len(block["group_id"].unique()))
    return Result(job.output, summary=tally.summary())


def _embedder(params: ScoreParams, start: Start, rollouts: Metadata) -> tuple[StepEmbedder, int]:
    """The embedder, and for how many groups at a time: one, where each takes a while and none must be lost."""
    if params.embedding == "static":
        return StaticEmbedder(start.model), GROUPS_PER_BLOCK
    from stages.embedding.hidden import HiddenEmbedder

    sampled = rollouts.stage_params("rollout")
    pixels = Pixels(sampled.get("min_pixels"), sampled.get("max_pixels"))
    return HiddenEmbedder(start.model, start.policy, pixels), 1


def score_block(block: pa.Table, params: ScoreParams, embedder: StepEmbedder, policy_step: int) -> pa.Table:
    """The score columns of a table of whole groups, row for row.

    Rows are the block's, rollouts its solver rows (R of them), groups M: a rollout's `row` and `group` index them.
    """
    is_proposer = np.array(block["role"].to_pylist()) == PROPOSER
    row_group = np.cumsum(is_proposer) - 1
    row = np.flatnonzero(~is_proposer)
    group, groups = row_group[row], int(is_proposer.sum())

    texts = block["completion"].to_pylist()
    parsed = [parse_completion(texts[i] or "", params.max_steps) for i in row]
    agreement = consensus(group, _number_keys(parsed), groups)

    t = block["group_index"].to_numpy() + policy_step + 1
    weight = _step_weights(t[row], params)
    r_answer = answer_reward(
        agreement.prob,
        np.array([completion.words for completion in parsed], dtype=np.int64),
        params.answer_exponent,
        params.length_penalty,
        params.length_limit,
    )
    step_counts = np.array([len(completion.steps) for completion in parsed], dtype=np.int64)
    rollout = np.repeat(np.arange(len(parsed)), step_counts)
    position = np.arange(len(rollout)) - np.repeat(np.cumsum(step_counts) - step_counts, step_counts)
    found = [
        Step(place, start, text)
        for place, completion in zip(row, parsed, strict=True)
        for start, text in zip(completion.starts, completion.steps, strict=True)
    ]
    similarity = np.full(len(rollout), np.nan)
    compared, prototype = compared_steps(rollout, position, group, agreement.dominant)
    for span in _spans(group[rollout[compared]], STEPS_AT_ONCE):
        embedding = embedder.embed([found[step] for step in compared[span]], block)
        similarity[compared[span]] = step_similarity(embedding, prototype[span] - prototype[span.start])
    steps = step_reward(
        similarity,
        rollout,
        position,
        group,
        agreement.size,
        agreement.dominant_size,
        decay=0.0 if params.no_decay else params.decay,
        density_exponent=0.0 if params.no_density else params.density_exponent,
    )

    reward = np.full(len(block), np.nan)
    reward[row] = steps.reward if params.reward == "step" else (1 - weight) * r_answer + weight * steps.reward
    reward[is_proposer] = _proposer_rewards(block.filter(pa.array(is_proposer)), agreement, params)

    def solver(values: Sequence[Any] | np.ndarray, kind: pa.DataType) -> pa.Array:
        """A column that is null on the proposer's rows."""
        place = pa.array(np.cumsum(~is_proposer) - 1, mask=is_proposer)
        return pa.array(list(values), kind).take(place)

    return pa.table(
        {
            "step": pa.array(t),
            "answer": solver([completion.answer for completion in parsed], pa.string()),
            "answer_key": solver([completion.answer_key for completion in parsed], pa.string()),
            "steps": solver([completion.steps for completion in parsed], pa.list_(pa.string())),
            "answer_prob": solver(agreement.prob, pa.float64()),
            "entropy": pa.array(agreement.entropy[row_group], from_pandas=True),
            "dominant": solver(agreement.dominant.tolist(), pa.bool_()),
            "density": solver(steps.density[group], pa.float64()),
            "step_similarity": solver(
                _similarity_lists(similarity, step_counts, agreement.dominant), pa.list_(pa.float64())
            ),
            "r_answer": solver(r_answer, pa.float64()),
            "r_step": solver(steps.reward, pa.float64()),
            "step_weight": solver(weight, pa.float64()),
            "selected": pa.array(~np.isnan(reward)),
            "reward": pa.array(reward, from_pandas=True),
        },
        schema=SCORE_COLUMNS,
    )


def _number_keys(parsed: Sequence[Completion]) -> np.ndarray:
    """Answer keys as numbers [R], equal where the keys are equal; NO_ANSWER for none."""
    numbers: dict[str, int] = {}
    return np.array(
        [
            NO_ANSWER if completion.answer_key is None else numbers.setdefault(completion.answer_key, len(numbers))
            for completion in parsed
        ],
        dtype=np.int64,
    )


def _spans(group: np.ndarray, size: int) -> Iterator[slice]:
    """Spans of about `size` steps, none of which parts those of one group; group [K]: the group of each, ascending."""
    starts = np.flatnonzero(np.diff(group, prepend=-1, append=-1))  # the end is one more
    first = 0
    while first < len(group):
        last = int(starts[max(np.searchsorted(starts, first + size, "right") - 1, np.searchsorted(starts, first) + 1)])
        yield slice(first, last)
        first = last


def _step_weights(t: np.ndarray, params: ScoreParams) -> np.ndarray:
    if params.reward == "answer":
        return np.zeros(len(t))
    if params.no_warmup:
        return np.full(len(t), params.max_step_weight)
    return step_weight(t, params.total_steps, params.warmup, params.max_step_weight)


def _proposer_rewards(proposals: pa.Table, agreement: Consensus, params: ScoreParams) -> np.ndarray:
    """The Proposer's reward of each group [M]; 0 for a proposal without a question, NaN where there was no proposal
    or no rollout because the image could not be read."""
    answered = agreement.dominant_size > 0
    reward = proposer_reward(agreement.entropy, answered, params.entropy_target, params.entropy_width)
    columns = (proposals[name].to_pylist() for name in ("question", "completion", "reject_reason"))
    proposed = [
        (question or completion is not None) and not (reason or "").startswith(UNREADABLE)
        for question, completion, reason in zip(*columns, strict=True)
    ]
    return np.where(np.array(proposed, dtype=bool), reward, np.nan)


def _similarity_lists(
    similarity: np.ndarray, step_counts: np.ndarray, dominant: np.ndarray
) -> list[list[float | None] | None]:
    values = [None if np.isnan(value) else value for value in similarity.tolist()]
    ends = np.cumsum(step_counts).tolist()
    return [
        values[end - count : end] if inside else None
        for end, count, inside in zip(ends, step_counts.tolist(), dominant.tolist(), strict=True)
    ]


class Tally:
    """Counts and running means over the blocks, for the closing line."""

    def __init__(self) -> None:
        self._rollouts = self._answered = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, columns: pa.Table) -> None:
        solver = np.array([weight is not None for weight in columns["step_weight"].to_pylist()])
        for name, column, rows in (
            ("reward", "reward", solver),
            ("r_answer", "r_answer", solver),
            ("r_step", "r_step", solver),
            ("proposer_reward", "reward", ~solver),
            ("entropy", "entropy", ~solver),
        ):
            values = columns[column].to_numpy(zero_copy_only=False)[rows].astype(np.float64)
            values = values[~np.isnan(values)]
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
            self._counts[name] = self._counts.get(name, 0) + len(values)
        self._rollouts += int(solver.sum())
        self._answered += len(columns) - columns["answer_key"].null_count

    def summary(self) -> dict[str, float | int]:
        means = {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}
        return {"rollouts": self._rollouts, "answered": self._answered, **means}
