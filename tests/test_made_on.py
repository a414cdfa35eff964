"""What a file says it was computed on: told, never compared, and what a replay goes by."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages import shards
from stages.contract import ModelRef, PolicyRef
from stages.contract.metadata import Metadata
from stages.errors import UsageError
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.policy import read_state
from stages.propose import propose
from stages.score import score
from stages.update import update
from stages.verification import replay as replaying
from stages.verification.replay import Lineage, replay
from tests import chain

CPU = {"name": "cpu", "dtype": "float32"}
H100 = {"name": "NVIDIA H100", "dtype": "bfloat16"}
SAMPLED = {"tensor_parallel": 1, "batch_invariant": False}
META = Metadata("rollout", {"limit": None}, 0, (), ModelRef("model"), PolicyRef())


@pytest.fixture
def scored(workdir: Path) -> Path:
    texts = [chain.solution(answer) for answer in (4, 4, 5)]
    chain.write_shard(Path("rolled.parquet"), [chain.group(0, "pool/0.png", texts)])
    return score([Path("rolled.parquet")], ScoreParams(), Call(out=Path("scored.parquet"))).path


@pytest.mark.parametrize(("sampler", "device"), [("fake", {}), ("transformers", CPU)])
def test_samples_say_what_they_were_computed_on(workdir: Path, sampler: str, device: dict[str, Any]) -> None:
    params = ProposeParams(groups=1, sampling=chain.sampling(sampler, max_tokens=4))
    made = propose(Path("pool"), params, Call(model="model"))
    assert chain.metadata(made.path)["device"] == device


def test_a_policy_says_how_many_processes_made_it(scored: Path) -> None:
    made = update([scored], UpdateParams(), Call(out=Path("policy")))
    assert read_state(made.path).lineage.device == CPU | {"ranks": 1}
    assert json.loads((made.path / "state.json").read_text())["lineage"]["device"] == CPU | {"ranks": 1}


@pytest.mark.parametrize(("embedding", "device"), [("static", {}), ("hidden", CPU)])
def test_scores_say_it_where_a_model_gave_them(scored: Path, embedding: Any, device: dict[str, Any]) -> None:
    made = score([Path("rolled.parquet")], ScoreParams(embedding=embedding), Call(out=Path("other.parquet")))
    assert chain.metadata(made.path)["device"] == device


def test_what_was_made_elsewhere_is_reused_and_taken_up() -> None:
    """Whether a run goes on does not depend on the machine."""
    assert not shards.differences(replace(META, device=H100), replace(META, device=CPU))


def test_other_tools_need_not_say_it() -> None:
    text = '{"format": 2, "stage": "rollout", "model": {"name": "m"}, "policy": {"step": 0}%s}'
    assert Metadata.from_json(text % "", "").device == {}
    assert Metadata.from_json(text % ', "device": "a big one"', "").device == {}


# ------------------------------------------------------------------------------------------------ replay


@pytest.mark.parametrize(
    ("here", "made", "reason"),
    [
        (CPU, H100 | SAMPLED, "was made on NVIDIA H100 in bfloat16, and here is cpu in float32"),
        (H100, CPU | SAMPLED, "was made on cpu in float32, and here is NVIDIA H100 in bfloat16"),
        (H100, H100 | SAMPLED, "only what was sampled with --batch-invariant can be made again"),
        (CPU, CPU | {"ranks": 4}, r"by 4 processes.*torchrun --nproc-per-node 4 -m ireasoner_cli update"),
    ],
)
def test_what_would_come_out_otherwise_is_refused_before_it_is_made(
    here: dict[str, Any], made: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stages.models.device.Device.recorded", lambda _: here)
    monkeypatch.setattr(replaying, "_make", lambda *_: pytest.fail("it was made"))
    lineage = Lineage(tmp_path / "rollouts.parquet", replace(META, device=made), (), None)
    with pytest.raises(UsageError, match=reason):
        replay(replace(lineage, inputs=(tmp_path,), metadata=replace(lineage.metadata, inputs=(object(),))), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [{}, CPU | SAMPLED, H100 | {"tensor_parallel": 2, "batch_invariant": True}])
def test_it_is_sampled_again_as_it_was(device: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if device:
        own = {name: device[name] for name in CPU}
        monkeypatch.setattr("stages.models.device.Device.recorded", lambda _: own)
    recorded = {"prompt": "Look.", "sampler": "vllm"}
    lineage = Lineage(tmp_path / "questions.parquet", replace(META, params=recorded, device=device), (), None)
    replaying._check_device(lineage)
    engine = replaying._sampled(ProposeParams(), lineage, tmp_path).sampling.engine
    assert engine.tensor_parallel == device.get("tensor_parallel", 1)
    assert engine.batch_invariant == device.get("batch_invariant", False)
