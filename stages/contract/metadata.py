"""What every file says of itself, and the names and seeds that follow from it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stages import __version__
from stages.contract.tables import ANSWER
from stages.errors import DataError

FORMAT = 2
METADATA_KEY = b"ireasoner"


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
    stage's params, so that a scored shard still knows how its trajectories were sampled. `device` says what the rows
    were computed on, empty where no model was: its name, dtype, and what else decides the last bits. It is told, and
    not compared: rows from elsewhere are rows of the same distribution.
    """

    stage: str
    params: dict[str, Any]
    seed: int
    inputs: tuple[InputRef, ...]
    model: ModelRef
    policy: PolicyRef
    device: dict[str, Any] = field(default_factory=dict)
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
                raise DataError(f"{where}: {other_format(raw)}")
            params, inputs, seed, device = (raw.get(name) for name in ("params", "inputs", "seed", "device"))
            return Metadata(
                stage=str(raw["stage"]),
                params=params if isinstance(params, dict) else {},
                seed=_seed(seed),
                inputs=tuple(
                    InputRef(entry["name"], entry["sha256"])
                    for entry in (inputs if isinstance(inputs, list) else ())
                    if isinstance(entry, dict) and {"name", "sha256"} <= entry.keys()
                ),
                model=_reference(ModelRef, raw["model"]),
                policy=_reference(PolicyRef, raw["policy"]),
                device=device if isinstance(device, dict) else {},
                version=str(raw.get("version") or "unknown"),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
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

    @property
    def step(self) -> int:
        """The training step that those of the groups are counted from: what `propose` was told, else the policy's."""
        told = self.stage_params("propose").get("step")
        return told if isinstance(told, int) else self.policy.step

    @property
    def rewarded(self) -> list[str]:
        """The Solver's passes whose rows `score` rewards, by what it was told."""
        told = self.stage_params("score").get("rewarded")
        return [name.strip() for name in str(told or ANSWER).split(",")]

    @property
    def passes(self) -> dict[str, dict[str, Any]]:
        """The parameters of each of the Solver's passes, by name; empty if not recorded."""
        last = self.stage_params("rollout")
        if not last:
            return {}
        own = {name: value for name, value in last.items() if name != "passes" and name not in STAGES}
        earlier = last.get("passes")
        known = earlier.items() if isinstance(earlier, dict) else ()
        return {name: made for name, made in known if isinstance(made, dict)} | {last.get("pass") or ANSWER: own}


def gone_on(begun: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The `device` of an output of which a part was made where `begun` says, if anywhere, and the rest where `now`
    does: that, and under `earlier` all others, each once."""
    others = [*begun.get("earlier", ()), _alone(begun), *now.get("earlier", ())]
    earlier = [each for place, each in enumerate(others) if each and each != _alone(now) and each not in others[:place]]
    return _alone(now) | ({"earlier": earlier} if earlier else {})


def _alone(device: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in device.items() if name != "earlier"}


STAGES = ("propose", "rollout", "score", "update", "eval")


def _seed(raw: object) -> int:
    """0 where there is none. Raises ValueError for one that no generator of random numbers takes."""
    seed = raw if isinstance(raw, int) else 0
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"seed is {seed}")
    return seed


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


def other_format(found: Mapping[str, Any]) -> str:
    """What is wrong with metadata of another format than this version's, and what to do."""
    number, version = found["format"], found.get("version") or "another tool"
    newer = isinstance(number, int) and number > FORMAT
    advice = "install a newer ireasoner to read it" if newer else "make it again, or read it with the version that did"
    return f"is of format {number!r}, written by {version}, and ireasoner {__version__} reads format {FORMAT}; {advice}"


def group_id(seed: int, step: int, images_sha256: Sequence[str | None]) -> str:
    """16 hex digits from the run's seed, the group's training step and its images."""
    images = ":".join(digest or "" for digest in images_sha256)
    return hashlib.sha256(f"{seed}:{step}:{images}".encode()).hexdigest()[:16]


def images_id(images_sha256: Sequence[str | None] | None) -> str | None:
    """What is the same of rows about the same images; None where one of them is not known, or there is none."""
    return " ".join(filter(None, images_sha256)) if images_sha256 and all(images_sha256) else None


def trajectory_seed(group: str, role: str, sample_index: int, of_pass: str | None = None) -> int:
    """The trajectory's own seed, in [0, 2^63): no two trajectories of a run share their noise. `of_pass` is the
    Solver's pass, none for the Proposer."""
    digest = hashlib.sha256(f"{group}:{role}:{of_pass or ''}:{sample_index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
