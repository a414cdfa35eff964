"""`score`: every reward, from the rollouts alone.

    rollouts.parquet ──▶ scored.parquet

Reads the trajectories in blocks of whole groups, parses the Solver's completions, embeds their reasoning steps
(`embedding`), and adds the columns that `update` learns from. Loads the tokenizer and the embedding table; the model,
with the policy on it, for hidden states only.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from stages import shards
from stages.contract import PROPOSER, SCORE_COLUMNS, SCORED, SOLVER, TRAJECTORY, Metadata
from stages.embedding import StepEmbedder
from stages.embedding.static import StaticEmbedder
from stages.errors import UsageError
from stages.job import Job, Start
from stages.models.finding import locate_model
from stages.parameters import Call, recorded
from stages.parameters.sampling import Pixels
from stages.parameters.score import ScoreParams
from stages.policy import Policy
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.rewards.question_share import question_shares
from stages.scoring.block import score_block
from stages.scoring.chosen import Chosen
from stages.scoring.tally import Tally

GROUPS_PER_BLOCK = 256


def score(inputs: Sequence[Path], params: ScoreParams, call: Call = Call(), progress: Progress = SILENT) -> Result:
    """Writes the scored shard. The model may lie elsewhere now than the rollouts record, and of the policy they were
    sampled from only hidden states have need.

    Raises UsageError, DataError and EngineError as `shards`, `Start` and `HiddenEmbedder` do.
    """
    rollouts = shards.Shards(inputs, "rollout", TRAJECTORY)
    chosen = Chosen.of(params)
    chosen.check_sampling(rollouts.metadata)
    if params.embedding == "hidden":
        start = Start.recorded(call, rollouts, SOLVER)
    else:
        unread = Policy(None, None, rollouts.metadata.policy)
        start = Start(locate_model(call.model, rollouts.metadata.model), unread)
    job = Job(
        "score",
        call,
        start,
        output=shards.output_path(call.out, "scored", inputs),
        params={**recorded(params), **chosen.recorded(), "rollout": rollouts.metadata.params},
        seed=rollouts.metadata.seed,
        inputs=rollouts.inputs,
        total=call.at_most(rollouts.group_count),
    )
    if there := job.there():
        return there

    tally = Tally()
    schema = pa.schema([*SCORED, *chosen.columns])
    shares = _question_shares(rollouts) if params.question_share else None
    load = partial(_embedder, params, start, rollouts.metadata)
    with job.writing(schema, progress) as scored, scored.using(load) as (embedder, groups_per_block):
        for table in scored.taken_up(*SCORE_COLUMNS.names):
            tally.add(table)
        for block in rollouts.tables(groups_per_block, scored.left):
            columns = score_block(block, chosen, embedder, rollouts.metadata.policy.step, shares)
            tally.add(columns)
            table = pa.table([*block.columns, *columns.columns], schema=schema)
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


def _question_shares(rollouts: shards.Shards) -> dict[int, float]:
    """By group_index: how much of what was asked about its images a question's like is. Raises UsageError where that
    says nothing."""
    rows = rollouts.rows(("group_index", "role", "question", "images_sha256"))
    asked = [row for row in rows if row["role"] == PROPOSER]
    asked.sort(key=lambda row: row["group_index"])
    images = [" ".join(digest or "" for digest in row["images_sha256"] or ()) for row in asked]
    if len(set(images)) == len(images):
        raise UsageError(
            "--question-share compares the questions about one image, and no image has two; propose with --per-image"
        )
    shares = question_shares([row["question"] for row in asked], images)
    return {row["group_index"]: share for row, share in zip(asked, shares.tolist(), strict=True)}
