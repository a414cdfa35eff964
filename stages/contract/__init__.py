"""The contract between stages: columns, their types, and the metadata every file carries.

Pure definitions. Reading and writing the files is `shards`' business.
"""

from stages.contract.metadata import (
    FORMAT,
    METADATA_KEY,
    STAGES,
    InputRef,
    Metadata,
    ModelRef,
    PolicyRef,
    group_id,
    other_format,
    trajectory_seed,
)
from stages.contract.tables import (
    ANSWER,
    BENCHMARK,
    BENCHMARK_OPTIONAL,
    EVALUATED,
    IMAGE,
    LEFT_OUT,
    MAY_LACK,
    METRICS,
    PROPOSER,
    SCHEMAS,
    SCORE_COLUMNS,
    SCORED,
    SOLVER,
    TRAJECTORY,
    UNREADABLE,
    Role,
)

__all__ = [
    "ANSWER",
    "BENCHMARK",
    "BENCHMARK_OPTIONAL",
    "EVALUATED",
    "FORMAT",
    "IMAGE",
    "LEFT_OUT",
    "MAY_LACK",
    "METADATA_KEY",
    "METRICS",
    "PROPOSER",
    "SCHEMAS",
    "SCORED",
    "SCORE_COLUMNS",
    "SOLVER",
    "STAGES",
    "TRAJECTORY",
    "UNREADABLE",
    "InputRef",
    "Metadata",
    "ModelRef",
    "PolicyRef",
    "Role",
    "group_id",
    "other_format",
    "trajectory_seed",
]
