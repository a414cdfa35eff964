"""The policy directory: adapters and training state, carried from one iteration to the next. Needs no torch.

solver/  proposer/     PEFT adapters, loadable by PEFT and vLLM as they are
state.json             step, per role baseline, KL coefficient and update count; model, lineage, format
optimizer.safetensors  AdamW moments
metrics.parquet        a row per optimizer step of the update that wrote it
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages import __version__
from stages.contract import FORMAT, PROPOSER, SOLVER, InputRef, Metadata, ModelRef, PolicyRef, Role
from stages.errors import DataError, UsageError
from stages.learning.control import Baseline

STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
METRICS_FILE = "metrics.parquet"


@dataclass(frozen=True)
class RoleState:
    """A role's baseline, KL coefficient β, and how many optimizer steps it has taken."""

    baseline: Baseline
    kl_coef: float
    updates: int = 0


@dataclass(frozen=True)
class PolicyState:
    """state.json. `step` is the training step of the last group learned from; `lineage` says which update, of
    which inputs, with which parameters, from which policy."""

    step: int
    roles: dict[Role, RoleState]
    lineage: Metadata

    @property
    def model(self) -> ModelRef:
        return self.lineage.model

    def to_json(self) -> str:
        roles: dict[str, Any] = {role: asdict(state) for role, state in self.roles.items()}
        lineage = json.loads(self.lineage.to_json())
        content = {
            "format": FORMAT,
            "version": __version__,
            "step": self.step,
            **roles,
            "model": lineage.pop("model"),
            "lineage": {key: lineage[key] for key in ("params", "seed", "inputs", "policy")},
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_state(folder: Path) -> PolicyState:
    """Raises UsageError when there is no such folder, DataError when it is not a policy of this format."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such policy directory")
    file = folder / STATE_FILE
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise DataError(f"{file} is of format {raw['format']!r}, and this version of ireasoner reads {FORMAT}")
        lineage = Metadata(
            stage="update",
            params=raw["lineage"]["params"],
            seed=int(raw["lineage"]["seed"]),
            inputs=tuple(InputRef(**entry) for entry in raw["lineage"]["inputs"]),
            model=ModelRef(**raw["model"]),
            policy=PolicyRef(**raw["lineage"]["policy"]),
            version=str(raw["version"]),
        )
        roles: dict[Role, RoleState] = {
            role: RoleState(Baseline(**raw[role]["baseline"]), float(raw[role]["kl_coef"]), int(raw[role]["updates"]))
            for role in (SOLVER, PROPOSER)
        }
        return PolicyState(int(raw["step"]), roles, lineage)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: not a policy directory, it has no {STATE_FILE}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: damaged, or not a policy's state ({type(error).__name__}: {error})") from error


def fingerprint(folder: Path) -> str:
    """SHA-256 over all that makes the policy what it is; not over its metrics."""
    adapter_files = ("adapter_config.json", "adapter_model.safetensors")
    adapters = [f"{role}/{name}" for role in (PROPOSER, SOLVER) for name in adapter_files]
    digest = hashlib.sha256()
    for name in [*adapters, STATE_FILE, OPTIMIZER_FILE]:
        try:
            with (folder / name).open("rb") as file:
                digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise DataError(f"{folder}: incomplete policy directory, {name} cannot be read") from error
    return digest.hexdigest()


@dataclass(frozen=True)
class Policy:
    """A policy directory on this machine, or the base model when `folder` is None."""

    folder: Path | None
    state: PolicyState | None
    ref: PolicyRef

    def adapter(self, role: Role) -> Path | None:
        return self.folder / role if self.folder else None


BASE_MODEL = Policy(None, None, PolicyRef())


def open_policy(folder: Path | None) -> Policy:
    """The policy in `folder`, or the base model at step 0. Raises as `read_state` and `fingerprint` do."""
    if folder is None:
        return BASE_MODEL
    state = read_state(folder)
    return Policy(folder, state, PolicyRef(state.step, fingerprint(folder)))


def recorded_policy(folder: Path | None, recorded: PolicyRef, source: Path) -> Policy:
    """The policy that `source` was made with, which must be the one in `folder`.

    Raises UsageError when it is missing, DataError when `folder` holds another.
    """
    if folder is None and recorded.step:
        raise UsageError(f"{source} was made with a policy at step {recorded.step}; name its folder with --policy")
    policy = open_policy(folder)
    other_hash = recorded.sha256 is not None and policy.ref.sha256 != recorded.sha256
    if other_hash or policy.ref.step != recorded.step:
        made_with = f"the policy at step {recorded.step}" if recorded.step else "the base model"
        raise DataError(
            f"{folder}: at step {policy.ref.step}, not the policy that {source} was made with ({made_with}"
            + (f", SHA-256 {recorded.sha256[:12]}…" if recorded.sha256 else "")
            + ")"
        )
    return policy


def check_model(policy: Policy, model: ModelRef) -> None:
    """Raises DataError when the policy was trained on another model."""
    trained_on = policy.state.model if policy.state else None
    if trained_on and trained_on.sha256 and trained_on.sha256 != model.sha256:
        raise DataError(f"{policy.folder}: trained on {trained_on.name}, which is not the model {model.name}")
