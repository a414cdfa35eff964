"""The contract between stages: columns, their types, and the metadata every file carries.

Pure definitions. Reading and writing the files is `shards`' business.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from stages import __version__
from stages.errors import DataError

FORMAT = 1
METADATA_KEY = b"ireasoner"

Role = Literal["proposer", "solver"]
PROPOSER: Role = "proposer"
SOLVER: Role = "solver"

UNREADABLE = "unreadable image"  # how the reject_reason of an image that cannot be used begins
LEFT_OUT = "left out"  # how the reject_reason of a row begins that is not part of the benchmark

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

TRAJECTORY = pa.schema(
    [
        ("group_id", pa.string()),
        ("group_index", pa.int64()),
        ("role", pa.string()),
        ("sample_index", pa.int32()),
        ("image", IMAGE),
        ("image_sha256", pa.string()),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
        ("reject_reason", pa.string()),
    ]
)

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
        ("reward", pa.float64()),
    ]
)

SCORED = pa.schema([*TRAJECTORY, *SCORE_COLUMNS])

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
        ("tokens", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ModelRef:
    """Which model: the name as the user gave it, the hub commit if any, and the fingerprint."""

    name: str
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class PolicyRef:
    """Which policy: its training step and its SHA-256; step 0 is the base model, with no hash."""

    step: int = 0
    sha256: str | None = None


@dataclass(frozen=True)
class InputRef:
    """A file a stage read: its name (never a whole path) and its SHA-256."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself, under the key `ireasoner` of its Parquet metadata.

    `params` holds the stage's own resolved parameters and, under the name of the stage before, that
    stage's params, so that a scored shard still knows how its trajectories were sampled.
    """

    stage: str
    params: dict[str, Any]
    seed: int
    inputs: tuple[InputRef, ...]
    model: ModelRef
    policy: PolicyRef
    version: str = __version__
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes, where: str) -> "Metadata":
        """Reads metadata of our own or of another tool, which need give only `format`, `stage`,
        `model.name` and `policy.step`.

        Raises DataError when it is not such an object, or is of another format version.
        """
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise DataError(
                    f"{where} is of format {raw['format']!r}, and this version of ireasoner reads format {FORMAT}"
                )
            params, inputs, seed = (raw.get(name) for name in ("params", "inputs", "seed"))
            return Metadata(
                stage=str(raw["stage"]),
                params=params if isinstance(params, dict) else {},
                seed=seed if isinstance(seed, int) else 0,
                inputs=tuple(
                    InputRef(entry["name"], entry["sha256"])
                    for entry in (inputs if isinstance(inputs, list) else ())
                    if isinstance(entry, dict) and {"name", "sha256"} <= entry.keys()
                ),
                model=_reference(ModelRef, raw["model"]),
                policy=_reference(PolicyRef, raw["policy"]),
                version=str(raw.get("version") or "unknown"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{where}: its `ireasoner` metadata cannot be read ({type(error).__name__}: {error}); "
                "it must give format, stage, model.name and policy.step"
            ) from error

    def stage_params(self, stage: str) -> dict[str, Any]:
        """The parameters of `stage`, be it this file's own or one before it; empty if not recorded."""
        name, params = self.stage, self.params
        while name != stage:
            name, params = next(((k, v) for k, v in params.items() if k in STAGES and isinstance(v, dict)), ("", {}))
            if not name:
                return {}
        return params


STAGES = ("propose", "rollout", "score", "update", "eval")


def _reference(kind: Any, raw: dict[str, Any]) -> Any:
    known = {name: raw[name] for name in kind.__dataclass_fields__ if name in raw}
    reference = kind(**known)
    if kind is PolicyRef:
        if "step" not in raw or int(raw["step"]) != raw["step"] or raw["step"] < 0:
            raise ValueError(f"policy.step is {raw.get('step')!r}")
        return PolicyRef(int(raw["step"]), reference.sha256)
    if kind is ModelRef and not isinstance(reference.name, str):
        raise ValueError(f"model.name is {reference.name!r}")
    return reference


def group_id(seed: int, step: int, image_sha256: str | None) -> str:
    """16 hex digits from the run's seed, the group's training step and its image."""
    return hashlib.sha256(f"{seed}:{step}:{image_sha256 or ''}".encode()).hexdigest()[:16]


def trajectory_seed(group: str, role: str, sample_index: int) -> int:
    """The trajectory's own seed, in [0, 2^63): no two trajectories of a run share their noise."""
    digest = hashlib.sha256(f"{group}:{role}:{sample_index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
