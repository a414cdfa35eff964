"""The policy directory: adapters and training state, carried from one iteration to the next. Needs no torch.

solver/  proposer/     PEFT adapters, loadable by PEFT and vLLM as they are
teacher/               another, where `update --teacher-decay` keeps one: the exponential average of the Solver's
state.json             step, per role baseline, KL coefficient and update count; model, lineage, format; the
                       SHA-256 of adapters, moments and of itself
optimizer.safetensors  AdamW moments
metrics.parquet        a row per optimizer step of the update that wrote it
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stages import __version__
from stages.contract import (
    ANSWER,
    FORMAT,
    PROPOSER,
    SOLVER,
    InputRef,
    Metadata,
    ModelRef,
    PolicyRef,
    Role,
    other_format,
)
from stages.errors import DataError, UsageError
from stages.learning.control import Baseline
from stages.models.untrusted import Refused, check_links, read_json, tensor_headers
from stages.shards.sealing import checked_sha256

STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
METRICS_FILE = "metrics.parquet"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"

AdapterName = Literal["solver", "proposer", "teacher"]
TEACHER: AdapterName = "teacher"
ADAPTERS: tuple[AdapterName, ...] = (PROPOSER, SOLVER, TEACHER)

# The linear layers of a decoder layer that may have an adapter: by the word that stands for them, what they are called
# in one architecture or another. Routers and the like, and experts, which are no linear layers, are left out.
PROJECTIONS = {
    "q": ("self_attn.q_proj",),
    "k": ("self_attn.k_proj",),
    "v": ("self_attn.v_proj",),
    "o": ("self_attn.o_proj", "self_attn.out_proj"),
    "gate": ("mlp.gate_proj", "feed_forward.w1"),
    "up": ("mlp.up_proj", "feed_forward.w3"),
    "gate_up": ("mlp.gate_up_proj",),
    "down": ("mlp.down_proj", "feed_forward.w2"),
    "mixer": (
        *("linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.out_proj"),
        *("conv.in_proj", "conv.out_proj"),
    ),
}
ATTENTION = ("q", "k", "v", "o", "mixer")
# Settings of PEFT's that would load or build something else.
FOREIGN_SETTINGS = (
    *("auto_mapping", "modules_to_save", "layer_replication", "rank_pattern", "alpha_pattern"),
    *("trainable_token_indices", "target_parameters", "megatron_config", "use_dora", "lora_bias", "use_rslora"),
    "fan_in_fan_out",
)

# state.json ends with its own checksum, taken with these digits as zeros.
OWN_SHA256 = re.compile(rb'(?<="sha256": ")[0-9a-f]{64}(?="\n}\n\Z)')
NO_SHA256 = "0" * 64


@dataclass(frozen=True)
class Lora:
    """What a policy's adapters are, for good: the rank r, α, and the language model's projections that have one: those
    of a policy are all in its model, and before there is one all of PROJECTIONS stand for those that the model has."""

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = tuple(PROJECTIONS)

    @property
    def target_modules(self) -> str:
        """As PEFT reads it: the language model's projections only, for names alone would match the vision tower's."""
        paths = "|".join(re.escape(path) for name in self.targets for path in PROJECTIONS[name])
        return rf".*\b(language_model|text_model)\.layers\.\d+\.({paths})"

    def settings(self) -> dict[str, Any]:
        """What every adapter of the policy has in its configuration."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": self.target_modules,
            "bias": "none",
        }


DEFAULT_LORA = Lora()


@dataclass(frozen=True)
class RoleState:
    """A role's baseline, KL coefficient β, and how many optimizer steps it has taken; `passes`, the baselines of the
    Solver's passes other than `answer`."""

    baseline: Baseline
    kl_coef: float
    updates: int = 0
    passes: dict[str, Baseline] = field(default_factory=dict)

    def baseline_of(self, of_pass: str) -> Baseline:
        return self.baseline if of_pass == ANSWER else self.passes.get(of_pass, Baseline())

    def observing(self, of_pass: str, mean_reward: float) -> "RoleState":
        """With the mean reward of one more group in the pass's baseline."""
        after = self.baseline_of(of_pass).after(mean_reward)
        if of_pass == ANSWER:
            return replace(self, baseline=after)
        return replace(self, passes={**self.passes, of_pass: after})


@dataclass(frozen=True)
class SelfReward:
    """What a policy that learned with `--loss-aux last-token` thinks of an answer of its own:

        r_s = scale · (log π(token | prompt, answer) − reference)

    of a token that is never sampled; reference: the mean of that log-probability of the base model."""

    token: str
    scale: float
    reference: float


@dataclass(frozen=True)
class PolicyState:
    """state.json. `step` is the training step of the last group learned from; `lineage` says which update, of
    which inputs, with which parameters, from which policy."""

    step: int
    roles: dict[Role, RoleState]
    lineage: Metadata
    lora: Lora = DEFAULT_LORA
    self_reward: SelfReward | None = None
    files: dict[str, str] = field(default_factory=dict)  # as read: the SHA-256 of the other files

    @property
    def model(self) -> ModelRef:
        return self.lineage.model

    @property
    def has_teacher(self) -> bool:
        return f"{TEACHER}/{ADAPTER_FILE}" in self.files

    def to_json(self, files: dict[str, str]) -> str:
        """`files` holds the SHA-256 of the policy's other files by name."""
        roles: dict[str, Any] = {role: asdict(state) for role, state in self.roles.items()}
        lineage = json.loads(self.lineage.to_json())
        content = {
            "format": FORMAT,
            "version": __version__,
            "step": self.step,
            **roles,
            "lora": asdict(self.lora),
            "self_reward": asdict(self.self_reward) if self.self_reward else None,
            "model": lineage.pop("model"),
            "lineage": {key: lineage[key] for key in ("params", "seed", "inputs", "policy", "device")},
            "files": files,
            "sha256": NO_SHA256,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def files_of(adapters: Iterable[AdapterName]) -> list[str]:
    """The files of a policy with these adapters, but for its state and metrics."""
    files = (ADAPTER_CONFIG, ADAPTER_FILE)
    return [*(f"{adapter}/{name}" for adapter in adapters for name in files), OPTIMIZER_FILE]


def files_in(folder: Path) -> list[str]:
    """The files that a policy in `folder` has to have, but for its state and metrics."""
    return files_of(name for name in ADAPTERS if name != TEACHER or (folder / name).is_dir())


def write_state(folder: Path, state: PolicyState) -> None:
    """Writes state.json into a policy directory that has everything else."""
    text = state.to_json({name: checked_sha256(folder / name) for name in files_in(folder)}).encode()
    own = hashlib.sha256(text).hexdigest()
    (folder / STATE_FILE).write_bytes(OWN_SHA256.sub(own.encode(), text))


def read_state(folder: Path) -> PolicyState:
    """Raises UsageError when there is no such folder, DataError when it is not a policy of this format, or damaged."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such policy directory")
    file = folder / STATE_FILE
    if not file.exists():
        raise DataError(f"{folder}: not a policy directory, it has no {STATE_FILE}")
    try:
        check_links(folder)
        raw = read_json(file)
        if raw["format"] != FORMAT:
            raise DataError(f"{file}: {other_format(raw)}")
        text = file.read_bytes()
        if hashlib.sha256(OWN_SHA256.sub(NO_SHA256.encode(), text)).hexdigest() != raw["sha256"]:
            raise DataError(f"{file}: damaged, or changed by hand: it does not match its own checksum")
        lineage = Metadata(
            stage="update",
            params=raw["lineage"]["params"],
            seed=int(raw["lineage"]["seed"]),
            inputs=tuple(InputRef(**entry) for entry in raw["lineage"]["inputs"]),
            model=ModelRef(**raw["model"]),
            policy=PolicyRef(**raw["lineage"]["policy"]),
            device=dict(raw["lineage"].get("device", {})),
            version=str(raw["version"]),
        )
        roles: dict[Role, RoleState] = {
            role: RoleState(
                Baseline(**raw[role]["baseline"]),
                float(raw[role]["kl_coef"]),
                int(raw[role]["updates"]),
                {name: Baseline(**own) for name, own in raw[role]["passes"].items()},
            )
            for role in (SOLVER, PROPOSER)
        }
        self_reward = SelfReward(**raw["self_reward"]) if raw["self_reward"] else None
        lora = Lora(int(raw["lora"]["rank"]), int(raw["lora"]["alpha"]), tuple(raw["lora"]["targets"]))
        if not set(lora.targets) <= set(PROJECTIONS):
            raise ValueError(f"lora.targets is {list(lora.targets)}")
        if not set(raw["files"]) <= set(files_of(ADAPTERS)):
            raise ValueError(f"files are {sorted(raw['files'])}")
        return PolicyState(int(raw["step"]), roles, lineage, lora, self_reward, dict(raw["files"]))
    except Refused as error:
        raise DataError(str(error)) from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: damaged, or not a policy's state ({type(error).__name__}: {error})") from error


def fingerprint(folder: Path) -> str:
    """SHA-256 over all that makes the policy what it is, or, of a pruned one, made it; not over its metrics. Raises
    DataError where a file is missing."""
    hashes = dict(read_state(folder).files) if is_pruned(folder) else {}
    for name in [] if hashes else files_in(folder):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: incomplete policy directory, {name} cannot be read")
        hashes[name] = checked_sha256(folder / name)
    return _fingerprint_of(folder, hashes)


def _fingerprint_of(folder: Path, files: Mapping[str, str]) -> str:
    """The fingerprint of a policy whose other files have these SHA-256."""
    hashes = {**files, STATE_FILE: checked_sha256(folder / STATE_FILE)}
    return hashlib.sha256("".join(f"{name}\0{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def is_pruned(folder: Path) -> bool:
    """Whether only the state and the metrics of the policy are left."""
    return (folder / STATE_FILE).is_file() and not any((folder / name).exists() for name in files_of(ADAPTERS))


def prune(folder: Path) -> None:
    """Removes a policy's adapters and moments; what is left still says what it was. Interrupted, it can be repeated."""
    for name in files_of(ADAPTERS):
        (folder / name).unlink(missing_ok=True)
    for adapter in ADAPTERS:
        shutil.rmtree(folder / adapter, ignore_errors=True)


def check_whole(folder: Path, state: PolicyState, only: AdapterName | None = None) -> None:
    """Raises DataError, naming the file, unless every file is what `state` says, and an adapter or moments; with `only`
    one adapter, no other file is looked at."""
    if is_pruned(folder):
        raise DataError(
            f"{folder}: only its state and metrics are left; `ireasoner run` keeps the adapters of the last policies "
            "(--keep) and of the best. `ireasoner update --force` of its scored shard makes it again"
        )
    there = dict.fromkeys([*files_in(folder), *state.files])
    names = [name for name in there if only is None or name.startswith(f"{only}/")]
    try:
        for name in names:
            if not (folder / name).is_file():
                raise DataError(f"{folder}: incomplete policy directory, {name} cannot be read")
            if checked_sha256(folder / name) != state.files.get(name):
                raise DataError(f"{folder / name}: damaged, its contents do not match what {STATE_FILE} records")
        for name in names:
            check = check_adapter_config if name.endswith(ADAPTER_CONFIG) else _check_tensors
            check(folder / name, state.lora)
    except Refused as error:
        raise DataError(str(error)) from error


def check_adapter_config(file: Path, lora: Lora) -> None:
    """PEFT would load other models, and other modules, at the word of this file."""
    config = read_json(file)
    for name, value in lora.settings().items():
        if config.get(name) != value:
            raise DataError(f"{file}: its {name} is not {value}; no adapter of this tool")
    for name in FOREIGN_SETTINGS:
        if config.get(name):
            raise DataError(f"{file}: it sets {name}; no adapter of this tool")


def _check_tensors(file: Path, lora: Lora) -> None:
    for name, tensor in tensor_headers(file).items():
        if tensor.dtype != "F32" or len(tensor.shape) != 2 or lora.rank not in tensor.shape:
            raise DataError(f"{file}: {name[:100]} is {tensor.dtype} {list(tensor.shape)}, no part of an adapter")


@dataclass(frozen=True)
class Policy:
    """A policy directory on this machine, or the base model when `folder` is None."""

    folder: Path | None
    state: PolicyState | None
    ref: PolicyRef


def adapter_rank(adapter: Path) -> int:
    """r of an adapter that was looked over with its policy."""
    return int(read_json(adapter / ADAPTER_CONFIG)["r"])


BASE_MODEL = Policy(None, None, PolicyRef())


def open_policy(folder: Path | None, only: AdapterName | None = None) -> Policy:
    """The policy in `folder`, or the base model at step 0; who has need of `only` one adapter has no other file read.
    Raises as `read_state` and `check_whole` do."""
    if folder is None:
        return BASE_MODEL
    state = read_state(folder)
    check_whole(folder, state, only)
    return Policy(folder, state, PolicyRef(state.step, _fingerprint_of(folder, state.files)))


def recorded_policy(
    folder: Path | None, recorded: PolicyRef, source: Path, only: AdapterName | None = None, lag: int = 0
) -> Policy:
    """The policy in `folder`, which must be the one that `source` was made with, or, with a `lag` of 1, made from that
    by one update; `only` as for `open_policy`.

    Raises UsageError when it is missing, DataError when `folder` holds another.
    """
    if folder is None and recorded.step:
        raise UsageError(f"{source} was made with a policy at step {recorded.step}; name its folder with --policy")
    policy = open_policy(folder, only)
    parent = policy.state.lineage.policy if policy.state else None
    if not _is(policy.ref, recorded) and not (lag and parent and _is(parent, recorded)):
        made_with = f"the policy at step {recorded.step}" if recorded.step else "the base model"
        raise DataError(
            f"{folder}: at step {policy.ref.step}, not the policy that {source} was made with ({made_with}"
            + (f", SHA-256 {recorded.sha256[:12]}…" if recorded.sha256 else "")
            + (")" if not lag else "), nor made from that by one update")
        )
    return policy


def _is(policy: PolicyRef, recorded: PolicyRef) -> bool:
    """Whether it is the one that was recorded, by another tool perhaps, without a hash."""
    return policy.step == recorded.step and recorded.sha256 in (None, policy.sha256)


def check_model(policy: Policy, model: ModelRef) -> None:
    """Raises DataError when the policy was trained on another model."""
    trained_on = policy.state.model if policy.state else None
    if trained_on and trained_on.sha256 and trained_on.sha256 != model.sha256:
        raise DataError(f"{policy.folder}: trained on {trained_on.name}, which is not the model {model.name}")
