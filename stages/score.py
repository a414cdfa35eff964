"""`score`: every reward, from the rollouts alone.

    rollouts.parquet ──▶ scored.parquet

Reads the trajectories in blocks of whole groups, parses the Solver's completions, embeds their reasoning steps
(`embedding`), and adds the columns that `update` learns from. Loads the tokenizer and the embedding table; the model,
with the policy on it, for hidden states and votes by self-reward only.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stages import shards
from stages.contract import PROPOSER, SCORE_COLUMNS, SCORED, TRAJECTORY, Metadata
from stages.embedding import StepEmbedder
from stages.embedding.static import StaticEmbedder
from stages.errors import UsageError
from stages.job import Job, Start
from stages.models.support import check_learning
from stages.parameters import Call, recorded
from stages.parameters.score import ScoreParams
from stages.parsing import parse_tags
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.rewards.balance import balances
from stages.rewards.novelty import novelties
from stages.rewards.question_share import question_shares
from stages.scoring.block import Questions, score_block
from stages.scoring.chosen import Chosen
from stages.scoring.tally import Tally

if TYPE_CHECKING:
    from stages.scoring.self_reward import SelfRewards

GROUPS_PER_BLOCK = 256


def score(inputs: Sequence[Path], params: ScoreParams, call: Call = Call(), progress: Progress = SILENT) -> Result:
    """Writes the scored shard. The model may lie elsewhere now than the rollouts record, and of the policy they were
    sampled from only hidden states and votes by self-reward have need.

    Raises UsageError, DataError and EngineError as `shards`, `Start` and `HiddenEmbedder` do.
    """
    rollouts = shards.Shards(inputs, "rollout", TRAJECTORY)
    chosen = Chosen.of(params, rollouts.passes(), rollouts.metadata.passes)
    chosen.check_sampling(rollouts.metadata)
    start = Start.recorded(call, rollouts) if chosen.reads_policy else Start.unread(call, rollouts)
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

    tally = Tally(chosen)
    schema = pa.schema([*SCORED, *chosen.columns])
    questions = _questions(rollouts, chosen)
    groups_per_block = 1 if chosen.reads_policy else GROUPS_PER_BLOCK  # each takes a while, and none must be lost

    def load() -> AbstractContextManager[tuple[StepEmbedder, "SelfRewards | None"]]:
        return nullcontext(_models(params, start, rollouts.metadata))

    with job.writing(schema, progress) as scored, scored.using(load) as (embedder, self_rewards):
        scored.made_on(embedder.device)
        for table in scored.taken_up(*SCORE_COLUMNS.names, "pass", "completion"):
            tally.add(table)
        for block in rollouts.tables(groups_per_block, scored.left):
            trust = self_rewards.of(block) if self_rewards else None
            columns = score_block(block, chosen, embedder, rollouts.metadata.step, questions, trust)
            table = pa.table([*block.columns, *columns.columns], schema=schema)
            tally.add(table)
            rows = table if groups_per_block > 1 else table.to_pylist()
            scored.write(rows, len(block["group_id"].unique()))
    return Result(job.output, summary=tally.summary())


def _models(params: ScoreParams, start: Start, rollouts: Metadata) -> tuple[StepEmbedder, "SelfRewards | None"]:
    """What embeds steps, and what reads off the policy how it trusts its answers, where that is asked for."""
    if params.embedding == "hidden" or params.vote == "self-reward":
        check_learning(start.model)
    self_rewards = None
    if params.vote == "self-reward":
        from stages.scoring.self_reward import SelfRewards

        self_rewards = SelfRewards(start.model, start.policy, rollouts)
    if params.embedding == "static":
        return StaticEmbedder(start.model), self_rewards
    from stages.embedding.hidden import HiddenEmbedder

    return HiddenEmbedder(start.model, start.policy, rollouts), self_rewards


def _questions(rollouts: shards.Shards, chosen: Chosen) -> Questions:
    """What is asked for of the questions among one another. Raises UsageError where that says nothing."""
    wanted = chosen.proposer.keys() & {"novelty", "balance"}
    if not wanted and not chosen.params.question_share:
        return Questions()
    rows = rollouts.rows(("group_index", "role", "question", "completion", "images_sha256"))
    asked = [row for row in rows if row["role"] == PROPOSER]
    asked.sort(key=lambda row: row["group_index"])
    texts = [row["question"] for row in asked]
    images = [" ".join(digest or "" for digest in row["images_sha256"] or ()) for row in asked]
    if chosen.params.question_share and len(set(images)) == len(images):
        raise UsageError(
            "--question-share compares the questions about one image, and no image has two; propose with --per-image"
        )

    def by_index(values: np.ndarray) -> dict[int, float]:
        return {row["group_index"]: value for row, value in zip(asked, values.tolist(), strict=True)}

    return Questions(
        share=by_index(question_shares(texts, images)) if chosen.params.question_share else {},
        novelty=by_index(novelties(texts)) if "novelty" in wanted else {},
        balance=by_index(balances([_kind(row["completion"]) for row in asked], chosen.kinds))
        if "balance" in wanted
        else {},
    )


def _kind(proposal: str | None) -> str | None:
    """What kind of question a proposal says it is."""
    kind = parse_tags(proposal or "").get("kind")
    return None if kind is None else " ".join(kind.lower().split())
