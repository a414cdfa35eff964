"""`score`: every reward, from the rollouts alone.

    rollouts.parquet ──▶ scored.parquet

Reads the trajectories in blocks of whole groups, parses the Solver's completions, embeds their reasoning steps
(`embedding`), and adds the columns that `update` learns from. Loads the tokenizer and the embedding table; the model
for what the base believes of steps and, with the policy on it, for hidden states and votes by self-reward only.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stages import shards
from stages.contract import PROPOSER, SCORE_COLUMNS, SCORED, TRAJECTORY, Metadata, images_id
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
from stages.scoring.credit import StepCredit
from stages.scoring.tally import Tally

if TYPE_CHECKING:
    from stages.scoring.self_reward import SelfRewards

GROUPS_PER_BLOCK = 256


@dataclass(frozen=True)
class Models:
    """What embeds steps; what reads off the policy how it trusts its answers, and what gives steps their credit, where
    these are asked for."""

    embedder: StepEmbedder
    self_rewards: "SelfRewards | None"
    step_credit: StepCredit | None


def score(inputs: Sequence[Path], params: ScoreParams, call: Call = Call(), progress: Progress = SILENT) -> Result:
    """Writes the scored shard. The model may lie elsewhere now than the rollouts record, and of the policy they were
    sampled from only hidden states and votes by self-reward have need.

    Raises UsageError, DataError and EngineError as `shards`, `Start` and `HiddenEmbedder` do.
    """
    rollouts = shards.Shards(inputs, "rollout", TRAJECTORY)
    chosen = Chosen.of(params, rollouts.passes(), rollouts.metadata.passes)
    chosen.check_sampling(rollouts.metadata)
    start = Start.recorded(call, rollouts) if chosen.reads_policy else Start.unread(call, rollouts)
    start = replace(start, source=rollouts if chosen.runs_model else None)
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

    _check_known(rollouts, chosen)
    tally = Tally(chosen)
    schema = pa.schema([*SCORED, *chosen.columns])
    questions = _questions(rollouts, chosen)
    groups_per_block = 1 if chosen.runs_model else GROUPS_PER_BLOCK  # each takes a while, and none must be lost

    def load() -> AbstractContextManager[Models]:
        return nullcontext(_models(chosen, start, rollouts.metadata))

    with job.writing(schema, progress) as scored, scored.using(load) as models:
        scored.made_on(_device(chosen))
        for table in scored.taken_up(*SCORE_COLUMNS.names, "pass", "completion"):
            tally.add(table)
        for block in rollouts.tables(groups_per_block, scored.left):
            trust = models.self_rewards.of(block) if models.self_rewards else None
            step = rollouts.metadata.step
            columns = score_block(block, chosen, models.embedder, step, questions, trust, models.step_credit)
            table = pa.table([*block.columns, *columns.columns], schema=schema)
            tally.add(table)
            rows = table if groups_per_block > 1 else table.to_pylist()
            scored.write(rows, len(block["group_id"].unique()))
    return Result(job.output, summary=tally.summary())


def _models(chosen: Chosen, start: Start, rollouts: Metadata) -> Models:
    params, model = chosen.params, start.model
    if not chosen.runs_model:
        step_credit = StepCredit(params.credit, model, None) if params.credit else None
        return Models(StaticEmbedder(model), None, step_credit)
    # Each of these imports torch.
    from stages.embedding.hidden import HiddenEmbedder
    from stages.learning.rereading import Reader
    from stages.scoring.beliefs import Beliefs
    from stages.scoring.self_reward import SelfRewards, learned

    check_learning(model)
    own = learned(start.policy) if params.vote == "self-reward" else None
    reader = Reader(model, start.policy, rollouts)  # one for all that read the rollouts once more
    beliefs = Beliefs(reader) if params.credit == "trust" else None
    return Models(
        StaticEmbedder(model) if params.embedding == "static" else HiddenEmbedder(reader),
        SelfRewards(reader, own) if own else None,
        StepCredit(params.credit, model, beliefs) if params.credit else None,
    )


def _device(chosen: Chosen) -> dict[str, Any]:
    """What the scores are computed on, as files record it; empty where no model is."""
    if not chosen.runs_model:
        return {}
    from stages.models.device import this_device

    return this_device().recorded()


def _check_known(rollouts: shards.Shards, chosen: Chosen) -> None:
    """Raises UsageError where known answers are asked for, and there are questions but no answer."""
    if not chosen.passes.to_known:
        return
    targets = [row["target"] for row in rollouts.rows(("role", "target")) if row["role"] == PROPOSER]
    if targets and not any(targets):
        raise UsageError(
            "--target known: no question here has a known answer; propose with --task, or with --questions and --target"
        )


def _questions(rollouts: shards.Shards, chosen: Chosen) -> Questions:
    """What is asked for of the questions among one another. Raises UsageError where that says nothing."""
    wanted = chosen.proposer.keys() & {"novelty", "balance"}
    if not wanted and not chosen.params.question_share:
        return Questions()
    rows = rollouts.rows(("group_index", "role", "question", "completion", "images_sha256"))
    asked = [row for row in rows if row["role"] == PROPOSER]
    asked.sort(key=lambda row: row["group_index"])
    texts = [row["question"] for row in asked]
    images = [images_id(row["images_sha256"]) for row in asked]
    pictured = [image for image in images if image is not None]
    if chosen.params.question_share and len(set(pictured)) == len(pictured):
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
