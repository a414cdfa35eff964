"""A policy's files are read once, and by who samples only those that are loaded."""

from pathlib import Path

import pytest

from stages import policy as policies
from stages.contract import PROPOSER, SOLVER
from stages.errors import DataError
from stages.evaluate import evaluate
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.parameters.propose import ProposeParams
from stages.policy import STATE_FILE, fingerprint, open_policy
from stages.propose import propose
from tests import chain, test_run

world = test_run.world


@pytest.fixture
def policy(world: Path) -> Path:
    assert test_run.run(iterations=1).exit_code == 0
    return Path("run/it0001/policy")


def test_each_file_is_hashed_once(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    whole = policies.checked_sha256

    def counted(file: Path) -> str:
        names.append(str(file.relative_to(policy)))
        return whole(file)

    expected = fingerprint(policy)
    monkeypatch.setattr(policies, "checked_sha256", counted)
    assert open_policy(policy).ref.sha256 == expected
    assert sorted(names) == sorted([*policies.files_in(policy), STATE_FILE])
    names.clear()
    assert open_policy(policy, SOLVER).ref.sha256 == expected
    assert sorted(names) == ["solver/adapter_config.json", "solver/adapter_model.safetensors", STATE_FILE]


def test_sampling_needs_its_own_adapter_whole_and_no_other(policy: Path) -> None:
    for name in ("proposer/adapter_model.safetensors", "optimizer.safetensors"):
        file = policy / name
        file.write_bytes(file.read_bytes()[:-1])
    call = Call(policy=policy, model="model", out=Path("eval.parquet"))
    evaluate([Path("benchmark.parquet")], EvalParams(sampling=chain.fake()), call)
    with pytest.raises(DataError, match=r"proposer/adapter_model\.safetensors: damaged"):
        propose(Path("pool"), ProposeParams(sampling=chain.fake()), Call(policy=policy, model="model"))
    for only in (PROPOSER, None):
        with pytest.raises(DataError, match="damaged"):
            open_policy(policy, only)
