"""`update` as a stage: order, reproducibility, interruption, the policy directory, and what it refuses."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ireasoner_cli.app import app
from stages.errors import DataError, UsageError
from stages.learning.control import Baseline, next_kl_coef
from stages.learning.learner import Learner, UpdateParams
from stages.models.device import Device
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.policy import fingerprint, open_policy, read_state
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain
from tests.chain import fake
from tests.test_interruption import Listener

PARAMS = UpdateParams(lr=1e-3)


@pytest.fixture
def scored(workdir: Path) -> Path:
    return iteration(Path())


def iteration(folder: Path, policy: Path | None = None, groups: int = 10) -> Path:
    """A scored shard, sampled by the fake with `policy`."""
    questions = propose(
        Path("pool"),
        ProposeParams(groups=groups, sampling=fake(max_tokens=128)),
        Call(policy=policy, model="model", out=folder / "questions.parquet"),
    )
    rollouts = rollout([questions.path], RolloutParams(sampling=fake()), Call(policy=policy))
    return score([rollouts.path], ScoreParams(no_warmup=True)).path


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_colleagues_may_read_a_policy_as_the_umask_says(scored: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        policy = update([scored], PARAMS, Call(limit=1)).path
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in policy.rglob("*") if file.is_file()} == {mode}


def rewrite(path: Path, out: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    rows = [change(row) for row in chain.rows(path)]
    meta = chain.metadata(path)
    return chain.write_shard(Path(out), [rows], "score", meta["policy"]["step"])


def test_what_a_policy_directory_holds(scored: Path) -> None:
    result = update([scored], PARAMS)
    assert result.path == Path("policy")
    assert sorted(chain.file_bytes(result.path)) == [
        "metrics.parquet",
        "optimizer.safetensors",
        "proposer/adapter_config.json",
        "proposer/adapter_model.safetensors",
        "solver/adapter_config.json",
        "solver/adapter_model.safetensors",
        "state.json",
    ]
    state = json.loads(Path("policy/state.json").read_text())
    assert state["step"] == 10 and state["format"] == 2 and state["model"]["name"] == "model"
    rows = chain.rows(scored)
    trained = sorted({row["group_index"] for row in rows if row["role"] == "solver"})
    metrics = chain.rows(Path("policy/metrics.parquet"))
    assert [row["step"] for row in metrics if row["role"] == "solver"] == [index + 1 for index in trained]
    assert [row["step"] for row in metrics if row["role"] == "proposer"] == [5, 10]
    assert state["solver"]["updates"] == len(trained) and state["proposer"]["updates"] == 2
    assert state["lineage"]["inputs"][0]["name"] == "scored.parquet"


def test_baselines_and_coefficients_follow_the_groups_in_order(scored: Path) -> None:
    update([scored], PARAMS)
    rows = chain.rows(scored)
    solver, proposer = Baseline(), Baseline()
    metrics = {(row["role"], row["step"]): row for row in chain.rows(Path("policy/metrics.parquet"))}
    coefficients = {"solver": 1e-3, "proposer": 1e-3}
    for index in range(10):
        group = [row for row in rows if row["group_index"] == index]
        rewards = [row["reward"] for row in group if row["role"] == "solver"]
        for role, values, baseline in (("solver", rewards, solver), ("proposer", [group[0]["reward"]], proposer)):
            if row := metrics.get((role, index + 1)):
                mean = sum(values) / len(values)
                expected = [value - baseline.value(mean) for value in values]
                assert row["advantages"] == pytest.approx(expected)
                assert row["kl_coef"] == pytest.approx(coefficients[role])
                coefficients[role] = next_kl_coef(coefficients[role], row["kl"], 0.02, 1e-8)
        if rewards:
            solver = solver.after(sum(rewards) / len(rewards))
        proposer = proposer.after(group[0]["reward"])
    state = open_policy(Path("policy")).state
    assert state is not None
    assert state.roles["solver"].baseline.average == pytest.approx(solver.average)
    assert state.roles["proposer"].baseline.average == pytest.approx(proposer.average)
    assert state.roles["solver"].kl_coef == pytest.approx(coefficients["solver"])


def test_two_runs_give_the_same_bytes(scored: Path) -> None:
    update([scored], PARAMS, Call(out=Path("one")))
    update([scored], PARAMS, Call(out=Path("two")))
    assert chain.file_bytes(Path("one")) == chain.file_bytes(Path("two"))


@contextmanager
def dying_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[pytest.MonkeyPatch]:
    """Within, an update dies when it would take another optimizer step than so many."""
    step, taken = Learner.step, 0

    def dies(self: Learner, *args: Any) -> dict[str, Any]:
        nonlocal taken
        if taken == steps:
            raise KeyboardInterrupt
        taken += 1
        return step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "step", dies)
        yield patch


@pytest.mark.parametrize(("steps_before", "groups_per_step"), [(1, 1), (5, 1), (2, 3)])
def test_interrupted_and_run_again_equals_uninterrupted(
    scored: Path, monkeypatch: pytest.MonkeyPatch, steps_before: int, groups_per_step: int
) -> None:
    params = UpdateParams(lr=1e-3, groups_per_step=groups_per_step)
    update([scored], params, Call(out=Path("whole")))
    with dying_after(monkeypatch, steps_before):
        update([scored], params, Call(out=Path("again")), checkpoint_seconds=0)
    assert not Path("again").exists()
    step, repeated = Learner.step, 0

    def counts(self: Learner, *args: Any) -> dict[str, Any]:
        nonlocal repeated
        repeated += 1
        return step(self, *args)

    monkeypatch.setattr(Learner, "step", counts)
    update([scored], params, Call(out=Path("again")))
    assert chain.file_bytes(Path("again")) == chain.file_bytes(Path("whole"))
    assert repeated < len(chain.rows(Path("whole/metrics.parquet")))
    assert not list(Path().glob(".again*"))


def test_the_next_iteration_goes_on_where_the_last_one_stopped(scored: Path) -> None:
    """Moments, baselines, coefficients and both adapters are carried over: two updates of five groups each, the
    second from the first's policy, equal one update of all ten."""
    update([scored], PARAMS, Call(out=Path("whole")))
    rows = chain.rows(scored)
    first = [[row for row in rows if row["group_index"] < 5]]
    second = [[{**row, "group_index": row["group_index"] - 5} for row in rows if row["group_index"] >= 5]]
    chain.write_shard(Path("first.parquet"), first, "score")
    update([Path("first.parquet")], PARAMS, Call(out=Path("half")))
    policy = {"step": 5, "sha256": fingerprint(Path("half"))}
    chain.write_shard(Path("second.parquet"), second, "score", policy=policy)
    update([Path("second.parquet")], PARAMS, Call(policy=Path("half"), out=Path("both")))
    whole, both = chain.file_bytes(Path("whole")), chain.file_bytes(Path("both"))
    for name in whole:
        if name not in ("state.json", "metrics.parquet"):
            assert both[name] == whole[name], name
    one, two = (json.loads(files["state.json"]) for files in (whole, both))
    assert all(one[name] == two[name] for name in ("step", "solver", "proposer"))


def test_a_policy_is_what_plain_peft_loads(scored: Path) -> None:
    update([scored], PARAMS)
    model = find_model("model")
    learner = Learner(model, PARAMS, seed=9)
    learner.load(Path("policy"))
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(model.path, dtype=torch.float32)
    peft = PeftModel.from_pretrained(stock, "policy/solver")
    theirs = {name.replace(".default.", "."): p for name, p in peft.named_parameters() if "lora_" in name}
    ours = learner.model.parameters("solver")
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    moments = load_file(Path("policy/optimizer.safetensors"))
    assert {name.split(".")[0] for name in moments} == {"solver", "proposer"}


def test_groups_in_files_of_any_order_are_learned_in_theirs(scored: Path) -> None:
    update([scored], PARAMS, Call(out=Path("whole")))
    rows = chain.rows(scored)
    late = [[row for row in rows if row["group_index"] >= 5]]
    early = [[row for row in rows if row["group_index"] < 5]]
    chain.write_shard(Path("a.parquet"), late, "score")
    chain.write_shard(Path("b.parquet"), early, "score")
    update([Path("a.parquet"), Path("b.parquet")], PARAMS, Call(out=Path("shuffled")))
    whole, shuffled = chain.file_bytes(Path("whole")), chain.file_bytes(Path("shuffled"))
    assert whole["solver/adapter_model.safetensors"] == shuffled["solver/adapter_model.safetensors"]
    assert whole["optimizer.safetensors"] == shuffled["optimizer.safetensors"]


def test_groups_per_step(scored: Path) -> None:
    result = update([scored], UpdateParams(lr=1e-3, groups_per_step=4))
    assert result.summary["solver_updates"] == 3 and result.summary["step"] == 10
    steps = [(row["role"], row["step"]) for row in chain.rows(Path("policy/metrics.parquet"))]
    assert steps == [("solver", 4), ("solver", 8), ("proposer", 5), ("solver", 10), ("proposer", 10)]


def test_rows_without_tokens_or_reward_are_not_learned_from(scored: Path) -> None:
    def without_proposals(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "token_ids": None, "logprobs": None} if row["role"] == "proposer" else row

    result = update([rewrite(scored, "elsewhere.parquet", without_proposals)], PARAMS, Call(out=Path("one")))
    assert result.summary["proposer_updates"] == 0
    nothing = rewrite(scored, "nothing.parquet", lambda row: {**row, "reward": None})
    result = update([nothing], PARAMS, Call(out=Path("two")))
    assert (result.summary["solver_updates"], result.summary["proposer_updates"], result.summary["step"]) == (0, 0, 10)
    one, two = (
        load_file(Path("one/proposer/adapter_model.safetensors")),
        load_file(Path("two/proposer/adapter_model.safetensors")),
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_image_of_the_shard_is_the_one_learned_from(scored: Path) -> None:
    """Pictures swapped among the groups: other gradients, so another policy."""
    update([scored], PARAMS, Call(out=Path("right")))
    rows = chain.rows(scored)
    pictures = {row["group_index"]: (row["images"], row["images_sha256"]) for row in rows}

    def swap(row: dict[str, Any]) -> dict[str, Any]:
        image, digest = pictures[(row["group_index"] + 1) % 10]
        return {**row, "images": image, "images_sha256": digest}

    update([rewrite(scored, "swapped.parquet", swap)], PARAMS, Call(out=Path("swapped")))
    assert chain.file_bytes(Path("right/solver")) != chain.file_bytes(Path("swapped/solver"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reward": float("nan")}, "its reward is not a finite number"),
        ({"logprobs": [float("-inf")], "token_ids": [65]}, "a log-probability is not a finite number"),
        ({"logprobs": [0.0]}, "token_ids but 1 logprobs"),
        ({"token_ids": [None], "logprobs": [0.0]}, "token None cannot have been sampled"),
        ({"token_ids": [10**6], "logprobs": [0.0]}, "token 1000000 cannot have been sampled"),
        ({"token_ids": [262], "logprobs": [0.0]}, "cannot have been sampled"),
        ({"step": 3}, "its step is 3, and should be 1"),
        ({"images_sha256": ["0" * 64]}, "the image has changed"),
    ],
)
def test_rows_that_cannot_be_right_are_refused(scored: Path, change: dict[str, Any], says: str) -> None:
    if change.get("token_ids") == [262]:
        change = {**change, "token_ids": [find_model("model").forbidden_tokens[0]]}
    path = rewrite(scored, "wrong.parquet", lambda row: {**row, **change} if row["group_index"] == 0 else row)
    with pytest.raises(DataError, match=says):
        update([path], PARAMS)
    assert not Path("policy").exists()


# ------------------------------------------------------------------------------------- the right policy


def test_the_recorded_policy_is_needed(scored: Path, workdir: Path) -> None:
    policy = update([scored], PARAMS).path
    second = iteration(Path("it2"), policy)
    assert chain.metadata(second)["policy"] == {"step": 10, "sha256": fingerprint(policy)}
    questions = [Path("it2/questions.parquet")]
    for stage in (
        lambda p: rollout(questions, RolloutParams(sampling=fake()), Call(policy=p, force=True)),
        lambda p: update([second], PARAMS, Call(policy=p)),
    ):
        with pytest.raises(UsageError, match="policy at step 10; name its folder"):
            stage(None)
    update([scored], UpdateParams(lr=2e-3), Call(out=Path("other")))
    with pytest.raises(DataError, match="not the policy that"):
        update([second], PARAMS, Call(policy=Path("other")))
    with pytest.raises(DataError, match=r"not the policy that .* made with .the base model"):
        update([scored], PARAMS, Call(policy=policy, out=Path("third")))
    with pytest.raises(UsageError, match="is the policy that is being updated"):
        update([second], PARAMS, Call(policy=policy, out=policy, force=True))
    update([second], PARAMS, Call(policy=policy))
    assert open_policy(Path("it2/policy")).ref.step == 20


def test_policies_that_are_none(scored: Path, workdir: Path, other_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="no such policy"):
        open_policy(Path("nowhere"))
    Path("empty").mkdir()
    with pytest.raises(DataError, match="not a policy directory"):
        open_policy(Path("empty"))
    policy = update([scored], PARAMS).path
    with pytest.raises(DataError, match="not the model that the input or the policy was made with"):
        propose(
            Path("pool"),
            ProposeParams(sampling=fake()),
            Call(policy=policy, model=str(other_model_dir), out=Path("q.parquet")),
        )
    shutil.copytree(policy, "torn")
    (Path("torn/optimizer.safetensors")).unlink()
    with pytest.raises(DataError, match=r"optimizer\.safetensors cannot be read"):
        open_policy(Path("torn"))
    state = json.loads((policy / "state.json").read_text())
    (policy / "state.json").write_text(json.dumps({**state, "format": 3}))
    with pytest.raises(DataError, match="format 2"):
        open_policy(policy)
    (policy / "state.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        open_policy(policy)


def test_an_existing_policy_is_reused_or_protected(scored: Path) -> None:
    update([scored], PARAMS)
    before = chain.file_bytes(Path("policy"))
    assert update([scored], PARAMS).reused
    with pytest.raises(UsageError, match=r"params.lr: 0.001 → 0.01"):
        update([scored], UpdateParams(lr=1e-2))
    assert chain.file_bytes(Path("policy")) == before
    update([scored], UpdateParams(lr=1e-2), Call(force=True))
    assert chain.file_bytes(Path("policy")) != before
    assert not list(Path().glob(".policy*"))


def test_only_a_policy_is_ever_replaced(scored: Path, workdir: Path) -> None:
    second = iteration(Path("it2"), update([scored], PARAMS).path)
    before = chain.file_bytes(Path("it2"))
    for out in ("pool", "it2", ".", "..", "/"):
        with pytest.raises(UsageError, match="name a"):
            update([second], PARAMS, Call(policy=Path("policy"), out=Path(out), force=True))
    with pytest.raises(UsageError, match="or holds it"):
        update([second], PARAMS, Call(policy=Path("policy"), out=Path("policy/../policy"), force=True))
    assert chain.file_bytes(Path("it2")) == before and len(list(Path("pool").iterdir())) == 8


def test_a_damaged_checkpoint_is_as_good_as_none(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update([scored], PARAMS, Call(out=Path("whole")))
    with dying_after(monkeypatch, 3):
        update([scored], PARAMS, Call(out=Path("again")), checkpoint_seconds=0)
    [adapter] = Path(".again.partial").glob("step-*/proposer/adapter_model.safetensors")
    adapter.write_bytes(adapter.read_bytes()[:-9])
    update([scored], PARAMS, Call(out=Path("again")))
    assert chain.file_bytes(Path("again")) == chain.file_bytes(Path("whole"))


def test_a_policy_says_of_all_that_it_was_made_on(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun elsewhere, or by another number of processes, it has other last digits than either makes alone."""
    with dying_after(monkeypatch, 3) as patch:
        patch.setattr("stages.update.this_device", lambda: Device("another", gpu=False))
        update([scored], PARAMS, checkpoint_seconds=0)
    update([scored], PARAMS)
    here = {"name": "cpu", "dtype": "float32", "ranks": 1}
    assert read_state(Path("policy")).lineage.device == {**here, "earlier": [{**here, "name": "another"}]}
    refused = CliRunner().invoke(app, ["verify", ".", "--replay"])
    assert refused.exit_code == 2 and "was begun elsewhere (another, ranks 1)" in refused.stderr


def test_a_crash_between_the_two_renames_is_put_right(scored: Path) -> None:
    update([scored], PARAMS)
    Path("policy").rename(".policy.old")
    assert update([scored], PARAMS).reused
    assert not Path(".policy.old").exists()


def test_an_update_that_teaches_nothing_says_so(workdir: Path) -> None:
    """As of one row a group, which no other is better than."""
    propose(Path("pool"), ProposeParams(groups=4, sampling=fake(max_tokens=128)), Call(model="model"))
    for samples, said in ((1, True), (3, False)):
        rollout([Path("questions.parquet")], RolloutParams(samples=samples, sampling=fake()), Call(force=True))
        scored = score([Path("rollouts.parquet")], ScoreParams(no_warmup=True), Call(force=True)).path
        listener = Listener()
        update([scored], replace(PARAMS, advantage="mean"), Call(out=Path(f"of-{samples}")), progress=listener)
        assert any("the Solver had nothing to learn" in line for line in listener.said) == said


# ------------------------------------------------------------------------------------- several processes


def test_more_processes_than_groups_in_a_step_are_refused(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--groups-per-step 2"):
        update([scored], PARAMS)
    assert not list(Path().glob("*policy*"))


def test_several_processes_are_told_their_places(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match=r"WORLD_SIZE is 2: .*RANK expected, but not set; start with torchrun"):
        update([scored], replace(PARAMS, groups_per_step=2))


def test_a_damaged_checkpoint_leaves_no_trace(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is taken up whole or not at all: what it had loaded before the damage was found must not stay."""
    update([scored], PARAMS, Call(out=Path("whole")))
    with monkeypatch.context() as patch:
        patch.setattr("stages.shards.publish_directory", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            update([scored], PARAMS)
    [checkpoint] = Path(".policy.partial").glob("step-*")
    (checkpoint / "proposer" / "adapter_model.safetensors").write_bytes(b"damaged")
    update([scored], PARAMS)
    assert chain.file_bytes(Path("policy")) == chain.file_bytes(Path("whole"))


def test_gradient_checkpointing_changes_no_bit(scored: Path) -> None:
    update([scored], PARAMS, Call(out=Path("kept")))
    update([scored], replace(PARAMS, gradient_checkpointing=True), Call(out=Path("made-again")))
    assert chain.file_bytes(Path("kept")) == chain.file_bytes(Path("made-again"))
