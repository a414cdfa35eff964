"""The tables that stages write and read: their columns and the columns' types."""

from typing import Any, Literal

import pyarrow as pa

Role = Literal["proposer", "solver"]
Row = dict[str, Any]  # of a shard, by column
PROPOSER: Role = "proposer"
SOLVER: Role = "solver"

UNREADABLE = "unreadable image"  # how the reject_reason of an image that cannot be used begins
LEFT_OUT = "left out"  # how the reject_reason of a row begins that is not part of the benchmark

ANSWER = "answer"  # the Solver's own pass

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

TRAJECTORY = pa.schema(
    [
        ("group_id", pa.string()),
        ("group_index", pa.int64()),
        ("role", pa.string()),
        ("pass", pa.string()),
        ("sample_index", pa.int32()),
        ("parent_index", pa.int32()),
        ("images", pa.list_(IMAGE)),
        ("images_sha256", pa.list_(pa.string())),
        ("view", pa.string()),
        ("question", pa.string()),
        ("target", pa.string()),
        ("prompt", pa.string()),
        ("learn_prompt", pa.string()),
        ("completion", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
        ("reject_reason", pa.string()),
    ]
)

# Columns that a shard of another tool may lack, and that then are null; a Solver's row without a pass is
# of the Solver's own.
MAY_LACK = frozenset({"pass", "parent_index", "view", "target", "learn_prompt", "selected"})

SCORE_COLUMNS = pa.schema(
    [
        ("step", pa.int64()),
        ("answer", pa.string()),
        ("answer_key", pa.string()),
        ("steps", pa.list_(pa.string())),
        ("answer_prob", pa.float64()),
        ("entropy", pa.float64()),
        ("dominant", pa.bool_()),
        ("density", pa.float64()),
        ("step_similarity", pa.list_(pa.float64())),
        ("r_answer", pa.float64()),
        ("r_step", pa.float64()),
        ("step_weight", pa.float64()),
        ("selected", pa.bool_()),
        ("reward", pa.float64()),
    ]
)

SCORED = pa.schema([*TRAJECTORY, *SCORE_COLUMNS])
# Of a shard whose rows are compared: which pair a row is in, and whether it is the better of the two.
PAIRS = pa.schema([("pair", pa.int32()), ("preferred", pa.bool_())])
# Of a shard with credit by step: the advantage of each step and, last, of the answer, and the token where each begins.
CREDIT = pa.schema([("step_credit", pa.list_(pa.float32())), ("step_tokens", pa.list_(pa.int32()))])

BENCHMARK = pa.schema(
    [
        ("id", pa.string()),
        ("image", IMAGE),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
    ]
)
BENCHMARK_OPTIONAL = pa.schema([("type", pa.string()), ("choices", pa.list_(pa.string())), ("images", pa.list_(IMAGE))])

EVALUATED = pa.schema(
    [
        ("id", pa.string()),
        ("sample_index", pa.int32()),
        ("type", pa.string()),
        ("image_sha256", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("prediction", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("score", pa.float64()),
        ("tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("task", pa.string()),
        ("question", pa.string()),
        ("cluster", pa.string()),
        ("seed", pa.int64()),
        ("reject_reason", pa.string()),
    ]
)

# What a stage's output holds, where that is Parquet.
SCHEMAS = {"propose": TRAJECTORY, "rollout": TRAJECTORY, "score": SCORED, "eval": EVALUATED}

METRICS = pa.schema(
    [
        ("step", pa.int64()),
        ("role", pa.string()),
        ("loss", pa.float64()),
        ("kl", pa.float64()),
        ("kl_coef", pa.float64()),
        ("advantages", pa.list_(pa.float64())),
        ("grad_norm", pa.float64()),
        ("importance_weight", pa.float64()),
        ("effective_sample_size", pa.float64()),
        ("clipped", pa.float64()),
        ("logprob_gap", pa.float64()),
        ("logprob_gap_max", pa.float64()),
        ("tokens", pa.int64()),
    ]
)
