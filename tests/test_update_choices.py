"""`update` by its other choices: pairs, the last token, a teacher, and rows that were asked in their own way."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from ireasoner_cli.app import app
from stages.contract import PAIRS, SOLVER, Metadata, ModelRef, PolicyRef
from stages.errors import DataError, MadeDifferently, UsageError
from stages.images import load_all
from stages.images.views import seen
from stages.learning import beforehand, rereading
from stages.learning.last_token import LastToken
from stages.learning.learner import Learner, UpdateParams
from stages.learning.rows import TrainingGroup
from stages.models.finding import find_model
from stages.models.unused import unused_token
from stages.parameters import Call
from stages.parameters.sampling import Pixels
from stages.parameters.score import ScoreParams
from stages.policy import TEACHER, is_pruned, open_policy, prune
from stages.score import score
from stages.update import update
from stages.updating.remarks import unlike_sampled
from stages.verification.verify import verify
from tests import chain
from tests.plain import PlainLoop, stock_model
from tests.test_rules import read_by
from tests.test_run import SETTINGS
from tests.test_update import iteration

Row = dict[str, Any]
PAIRED = UpdateParams(lr=1e-3, roles="solver", loss="dpo", sft_coef=1 / 1024, kl_fixed=0.0)
FORETOLD = UpdateParams(lr=1e-3, loss_aux="last-token", proposer_every=100)
TAUGHT = UpdateParams(lr=1e-3, teacher_decay=0.9, proposer_every=100)
EVERYTHING = replace(PAIRED, loss_aux="last-token", teacher_decay=0.9, reference="start")


@pytest.fixture
def scored(workdir: Path) -> Path:
    return iteration(Path(), groups=4)


def rewritten(path: Path, out: str, change: Callable[[Row], Row]) -> Path:
    """The shard with other rows, and columns for pairs."""
    return chain.rewritten(path, out, PAIRS, change)


def paired(path: Path, out: str = "paired.parquet") -> Path:
    """The first answer of each group preferred to the second, the fourth to the third."""

    def change(row: Row) -> Row:
        place = row["sample_index"]
        if row["role"] != SOLVER or place > 3:
            return row
        return {**row, "pair": place // 2, "preferred": place in (0, 3), "prompt": row["prompt"] + "!" * place}

    return rewritten(path, out, change)


@contextmanager
def dies_after(steps: int) -> Iterator[None]:
    step, taken = Learner.step, 0

    def dies(self: Learner, *args: Any) -> Row:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise KeyboardInterrupt
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "step", dies)
        yield


# ------------------------------------------------------------------------------------------- pairs


def test_pairs_are_learned_and_nothing_else(scored: Path) -> None:
    shard = paired(scored)
    update([shard], PAIRED)
    rows = [row for row in chain.rows(shard) if row["role"] == SOLVER]
    metrics = chain.rows(Path("policy/metrics.parquet"))
    assert len(metrics) == len({row["group_id"] for row in rows})
    for row in metrics:
        tokens = [r["token_ids"] for r in rows if r["step"] == row["step"] and r["pair"] is not None]
        assert row["tokens"] == sum(map(len, tokens)) and len(row["advantages"]) == 4
        assert row["kl_coef"] == 0 and row["importance_weight"] == pytest.approx(1)
    first = metrics[0]  # at the reference: −log σ(0), and half of β each way
    assert first["advantages"] == pytest.approx([0.05 + 1 / 1024, -0.05, -0.05, 0.05 + 1 / 1024])
    unchanged = rewritten(shard, "other.parquet", lambda row: {**row, "reward": None, "selected": False})
    update([unchanged], PAIRED, Call(out=Path("other")))
    assert chain.file_bytes(Path("other/solver")) == chain.file_bytes(Path("policy/solver"))
    assert open_policy(Path("policy")).state.roles[SOLVER].baseline.count == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("reference", ["base", "start"])
def test_pairs_are_measured_from_the_reference_that_was_asked_for(scored: Path, reference: Any) -> None:
    start = update([scored], replace(PAIRED, loss="policy-gradient", lr=3e-2), Call(out=Path("it1/policy"))).path
    shard = paired(iteration(Path("it2"), start, groups=4))
    policy = update([shard], replace(PAIRED, sft_coef=0.0, reference=reference), Call(policy=start)).path
    first = chain.rows(policy / "metrics.parquet")[0]["loss"]
    assert (first == pytest.approx(0.693147, abs=1e-6)) == (reference == "start")


@pytest.mark.parametrize("steps_before", [0, 1])
def test_an_interrupted_update_measures_once(scored: Path, steps_before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = update([scored], TAUGHT, Call(out=Path("it1/policy"))).path
    shard = paired(iteration(Path("it2"), start, groups=4))
    update([shard], EVERYTHING, Call(policy=start, out=Path("whole")))
    with dies_after(steps_before):
        update([shard], EVERYTHING, Call(policy=start, out=Path("again")), checkpoint_seconds=0)
    assert Path(".again.partial", beforehand.FILE).is_file() and not Path("again").exists()
    with pytest.raises(MadeDifferently, match="dpo_beta"):
        update([shard], replace(EVERYTHING, dpo_beta=0.2), Call(policy=start, out=Path("again")))
    monkeypatch.setattr(beforehand, "_measured", lambda *_: pytest.fail("measured again"))
    update([shard], EVERYTHING, Call(policy=start, out=Path("again")))
    assert chain.file_bytes(Path("again")) == chain.file_bytes(Path("whole"))
    assert not list(Path().glob(".again*"))


def test_what_was_measured_may_be_lost(scored: Path) -> None:
    """It is taken again from where the update began, not from where it stands."""
    shard = paired(scored)
    update([shard], EVERYTHING, Call(out=Path("whole")))
    with dies_after(1):
        update([shard], EVERYTHING, Call(out=Path("again")), checkpoint_seconds=0)
    Path(".again.partial", beforehand.FILE).write_bytes(b"PAR1")
    update([shard], EVERYTHING, Call(out=Path("again")))
    assert chain.file_bytes(Path("again")) == chain.file_bytes(Path("whole"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"roles": "both"}, "say --roles solver"),
        ({"sampling_temperature": True}, "leave it out with --loss dpo"),
    ],
)
def test_preferences_that_do_not_go_with_the_rest_are_refused(scored: Path, settings: Row, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        update([paired(scored)], replace(PAIRED, **settings))
    with pytest.raises(UsageError, match="`score --pairs` makes them"):
        update([scored], PAIRED)


def test_a_pair_is_of_two(scored: Path) -> None:
    lone = rewritten(paired(scored), "lone.parquet", lambda row: {**row, "preferred": True})
    with pytest.raises(DataError, match="pair 0 is not of a preferred row and another"):
        update([lone], PAIRED)
    gone = {"token_ids": None, "logprobs": None}
    torn = rewritten(paired(scored), "torn.parquet", lambda row: {**row, **(gone if row["pair"] == 1 else {})})
    update([torn], PAIRED)
    assert all(len(row["advantages"]) == 2 for row in chain.rows(Path("policy/metrics.parquet")))


# ---------------------------------------------------------------------------------------- last token


def test_the_last_token_has_a_measured_reference(scored: Path) -> None:
    policy = update([scored], FORETOLD).path
    state = json.loads((policy / "state.json").read_text())
    own = state["self_reward"]
    assert (own["token"], own["scale"]) == ("<|endoftext|>", 0.1)
    assert state["lineage"]["params"]["last_token"] == "<|endoftext|>"
    assert -30 < own["reference"] < 0
    second = iteration(Path("it2"), policy, groups=2)
    plain = update([second], UpdateParams(lr=1e-3), Call(policy=policy)).path
    assert json.loads((plain / "state.json").read_text())["self_reward"] == own  # carried along
    third = update([second], FORETOLD, Call(policy=policy, out=Path("third"))).path
    assert json.loads((third / "state.json").read_text())["self_reward"] == own  # and not measured again
    with pytest.raises(UsageError, match="stays as it was"):
        update([second], replace(FORETOLD, last_token="<|im_start|>"), Call(policy=policy, out=Path("fourth")))
    without = update([scored], TAUGHT, Call(out=Path("without"))).path
    assert chain.file_bytes(policy / "solver") != chain.file_bytes(without / "solver")


def test_the_reference_is_the_base_models(scored: Path) -> None:
    """As the learner reads it, of each answer that has an end."""
    model = find_model("model")
    rows = [row for row in chain.rows(scored) if row["role"] == SOLVER]
    ended = [row for row in rows if row["token_ids"][-1] in model.end_of_turn]
    assert len(ended) > 0
    update([scored], FORETOLD)
    reference = open_policy(Path("policy")).state.self_reward.reference  # type: ignore[union-attr]
    plain = PlainLoop(model, stock_model(model))
    (token,) = model.tokenizer.encode("<|endoftext|>").ids
    with torch.no_grad():
        found = [
            float(read_by(plain, model, (load_all(row), row["prompt"]), [*row["token_ids"], token])[-1, token])
            for row in ended
        ]
    assert reference == pytest.approx(sum(found) / len(found), abs=1e-4)


def test_an_update_that_learns_from_no_answer_measures_no_reference(scored: Path) -> None:
    """The next one does."""
    none = chain.rewritten(scored, "none.parquet", PAIRS, lambda row: {**row, "reward": None, "selected": False})
    policy = update([none], FORETOLD).path
    assert json.loads((policy / "state.json").read_text())["self_reward"] is None
    second = update([iteration(Path("it2"), policy, groups=2)], FORETOLD, Call(policy=policy)).path
    assert json.loads((second / "state.json").read_text())["self_reward"]["reference"] < 0
    with pytest.raises(UsageError, match="behind the Solver's answers"):
        update([scored], replace(FORETOLD, roles="proposer"), Call(out=Path("proposer")))


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|nowhere|>"])
def test_a_last_token_must_be_free(scored: Path, token: str) -> None:
    with pytest.raises(UsageError, match="--last-token"):
        update([scored], replace(FORETOLD, last_token=token))


def test_completions_that_are_all_cut_off_have_no_last_token(scored: Path) -> None:
    def cut(row: Row) -> Row:
        return {**row, "token_ids": row["token_ids"][:3], "logprobs": row["logprobs"][:3]}

    model = find_model("model")
    shard = rewritten(scored, "cut.parquet", cut)
    assert not any(row["token_ids"][-1] in model.end_of_turn for row in chain.rows(shard))
    with pytest.raises(DataError, match="every completion was cut off"):
        update([shard], FORETOLD)
    assert not list(Path().glob(".policy*"))


def test_the_token_that_is_taken_is_one_that_nothing_uses(workdir: Path) -> None:
    assert unused_token(find_model("model")) == "<|endoftext|>"
    shutil.copytree("model", "full", symlinks=False)
    tokenizer = json.loads(Path("full/tokenizer.json").read_text())
    last = max(token["id"] for token in tokenizer["added_tokens"])
    spare = {**tokenizer["added_tokens"][0], "id": last + 1, "content": "<|file_sep|>", "special": False}
    tokenizer["added_tokens"].append(spare)
    Path("full/tokenizer.json").write_text(json.dumps(tokenizer))
    assert unused_token(find_model("full")) == "<|file_sep|>"


# ------------------------------------------------------------------------------------------- teacher


def adapter(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "adapter_model.safetensors")


def test_a_teacher_is_the_average_of_its_pupil(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen_after = Learner.step, list[dict[str, torch.Tensor]]()

    def records(self: Learner, role: Any, groups: Any) -> Row:
        if not seen_after:
            seen_after.append({name: p.detach().clone() for name, p in self.model.parameters(SOLVER).items()})
        row = step(self, role, groups)
        seen_after.append({name: p.detach().clone() for name, p in self.model.parameters(SOLVER).items()})
        return row

    monkeypatch.setattr(Learner, "step", records)
    policy = update([scored], TAUGHT).path
    average = seen_after[0]
    for own in seen_after[1:]:
        average = {name: 0.9 * average[name] + 0.1 * own[name] for name in average}
    teacher = adapter(policy, TEACHER)
    assert len(seen_after) > 3 and set(teacher) == set(average)
    for name, tensor in average.items():
        assert torch.allclose(teacher[name], tensor, rtol=1e-5, atol=1e-8)
    assert chain.file_bytes(policy / "teacher").keys() == chain.file_bytes(policy / "solver").keys()


def test_a_teacher_is_what_plain_peft_loads(scored: Path) -> None:
    policy = update([scored], TAUGHT).path
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained("model", dtype=torch.float32)
    peft = PeftModel.from_pretrained(stock, str(policy / TEACHER))
    theirs = {name.replace(".default.", "."): p for name, p in peft.named_parameters() if "lora_" in name}
    ours = adapter(policy, TEACHER)
    assert set(theirs) == set(ours) and all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_teacher_goes_from_policy_to_policy(scored: Path) -> None:
    first = update([scored], TAUGHT).path
    second = iteration(Path("it2"), first, groups=2)
    kept = update([second], UpdateParams(lr=1e-3), Call(policy=first)).path
    assert chain.file_bytes(kept / TEACHER) == chain.file_bytes(first / TEACHER)
    taught = update([second], TAUGHT, Call(policy=first, out=Path("taught"))).path
    assert chain.file_bytes(taught / TEACHER) != chain.file_bytes(first / TEACHER)
    for decay, same in ((0.0, taught), (1.0, first)):
        policy = update([second], replace(TAUGHT, teacher_decay=decay), Call(policy=first, out=Path(f"at{decay}"))).path
        own = adapter(same, SOLVER if decay == 0 else TEACHER)
        assert all(torch.equal(own[name], tensor) for name, tensor in adapter(policy, TEACHER).items())


def test_settings_that_do_not_go_together_are_said_before_anything_is_sampled(workdir: Path) -> None:
    """A teacher would be missing in the second iteration, and proposals would not be compared."""
    Path("ireasoner.toml").write_text(f'{SETTINGS}\n[[pass]]\nname = "teacher"\nadapter = "teacher"\n')
    words = ("run", "--images", "pool", "--out", "run", "--iterations", "2")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "`update` keeps none without --teacher-decay" in " ".join(done.stderr.split())
    compared = {"IREASONER_UPDATE_ADVANTAGE": "mean", "IREASONER_PROPOSE_PER_IMAGE": "2"}
    compared["IREASONER_UPDATE_TEACHER_DECAY"] = "0.9"
    done = CliRunner(env=compared).invoke(app, words)
    assert done.exit_code == 2 and "compares the 2 proposals about an image" in " ".join(done.stderr.split())
    assert not list(Path().glob("run/it*"))
    assert CliRunner(env={"IREASONER_UPDATE_TEACHER_DECAY": "0.9"}).invoke(app, words).exit_code == 0
    assert (Path("run/it0002/policy/teacher") / "adapter_model.safetensors").is_file()


def test_a_teacher_belongs_to_the_policy(scored: Path) -> None:
    policy = update([scored], TAUGHT).path
    ref = open_policy(policy).ref
    file = policy / "teacher" / "adapter_model.safetensors"
    before = file.read_bytes()
    file.write_bytes(before[:-4] + b"\0\0\0\1")
    with pytest.raises(DataError, match=r"teacher/adapter_model\.safetensors: damaged"):
        open_policy(policy)
    shutil.rmtree(policy / "teacher")
    with pytest.raises(DataError, match="teacher/"):
        open_policy(policy)
    (policy / "teacher").mkdir()
    shutil.copy(policy / "solver" / "adapter_config.json", policy / "teacher")
    file.write_bytes(before)
    assert open_policy(policy).ref == ref
    prune(policy)
    assert is_pruned(policy) and sorted(path.name for path in policy.iterdir()) == ["metrics.parquet", "state.json"]


def test_a_policy_made_by_all_of_it_is_verified_and_made_again(scored: Path) -> None:
    first = update([scored], replace(TAUGHT, loss_aux="last-token")).path
    shard = paired(iteration(Path("it2"), first, groups=4), "it2/paired.parquet")
    policy = update([shard], EVERYTHING, Call(policy=first, out=Path("it2/policy"))).path
    found = {each.path: each.replayed for each in verify([first, policy], again=True) if each.replayed}
    assert found == {first: "same bytes", policy: "same bytes"}


# ------------------------------------------------------------------------ rows asked in their own way


def solver_of(shard: Path, out: str) -> dict[str, bytes]:
    return chain.file_bytes(update([shard], UpdateParams(lr=1e-3), Call(out=Path(out), limit=3)).path / "solver")


def test_a_view_is_learned_as_it_was_seen(scored: Path) -> None:
    """A row with a view, and a row whose picture is what the view shows, teach the same."""
    Path("seen").mkdir()

    def viewed(row: Row) -> Row:
        return {**row, "view": "rotate:20"} if row["role"] == SOLVER else row

    def changed(row: Row) -> Row:
        if row["role"] != SOLVER:
            return row
        picture = Image.open(row["images"][0]["path"]).convert("RGB")
        path = f"seen/{row['seed']}.png"
        seen(picture, "rotate:20", row["seed"]).save(path)
        return {**row, "images": [{"bytes": None, "path": path}], "images_sha256": [None]}

    plain = solver_of(scored, "plain")
    by_view = solver_of(rewritten(scored, "viewed.parquet", viewed), "viewed")
    by_picture = solver_of(rewritten(scored, "changed.parquet", changed), "changed")
    assert by_view == by_picture != plain


def test_a_prompt_to_learn_on_takes_the_place_of_all_that_was_shown(scored: Path) -> None:
    def spoilt(row: Row) -> Row:
        return {**row, "view": "mask:0.9", "prompt": "Describe it badly.", "learn_prompt": row["prompt"]}

    assert solver_of(rewritten(scored, "spoilt.parquet", spoilt), "spoilt") == solver_of(scored, "plain")


def test_rows_without_pictures_are_learned_without(scored: Path) -> None:
    def blind(row: Row) -> Row:
        return {**row, "images": [], "images_sha256": []} if row["role"] == SOLVER else row

    assert solver_of(rewritten(scored, "blind.parquet", blind), "blind") != solver_of(scored, "plain")


def test_rows_that_were_left_out_are_not_learned(scored: Path) -> None:
    def first_two(row: Row) -> Row:
        return {**row, "selected": row["role"] != SOLVER or row["sample_index"] < 2}

    def without_rewards(row: Row) -> Row:
        return row if first_two(row)["selected"] else {**row, "reward": None}

    one, other = (
        solver_of(rewritten(scored, f"{change.__name__}.parquet", change), change.__name__)
        for change in (first_two, without_rewards)
    )
    assert one == other != solver_of(scored, "plain")


# ------------------------------------------------------------------------------ a vote by self-reward


def test_the_policy_votes_by_what_it_has_learned_to_think_of_its_answers(scored: Path) -> None:
    """r_s as the learner itself reads it, by row; the dominant answer is the one with the largest sum."""
    policy = update([scored], replace(FORETOLD, lr=1e-2)).path
    second = iteration(Path("it2"), policy, groups=3).with_name("rollouts.parquet")
    out = Path("trusted.parquet")
    rows = chain.rows(score([second], ScoreParams(vote="self-reward"), Call(policy=policy, out=out)).path)

    model = find_model("model")
    learner = Learner(model, FORETOLD, seed=0)
    own = learner.load(policy).self_reward
    assert own is not None
    learner.last = LastToken(model.tokenizer.encode(own.token).ids[0], own.scale, own.reference)
    asked = 0
    for group in {row["group_id"]: row for row in rows if row["role"] == SOLVER}:
        answers = [row for row in rows if row["group_id"] == group and row["role"] == SOLVER]
        prompt = learner.model.process(load_all(answers[0]), answers[0]["prompt"], Pixels())
        right = [row["token_ids"][-1] in model.end_of_turn or None for row in answers]
        trained = TrainingGroup([prompt], [row["token_ids"] for row in answers], [[]] * len(right), [], right=right)
        for row, logprob, ended in zip(
            answers, learner.readout(SOLVER, [trained]).last[0].tolist(), right, strict=True
        ):
            expected = pytest.approx(own.scale * (logprob - own.reference), abs=1e-6)
            assert row["self_reward"] == (expected if ended else None)
        trust: dict[str, float] = {}
        for row in answers:
            if row["answer_key"] is not None:
                trust[row["answer_key"]] = trust.get(row["answer_key"], 0.0) + max(row["self_reward"] or 0.0, 0.0)
        dominant = {row["answer_key"] for row in answers if row["dominant"]}
        assert not dominant or trust[dominant.pop()] == max(trust.values())
        asked += 1
    assert asked > 0 and all(row["self_reward"] is None for row in rows if row["role"] != SOLVER)
    made = {each.path: each.replayed for each in verify([out], again=True)}
    assert made[out] == "same bytes"


def test_all_that_read_the_rollouts_once_more_share_a_model(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each reads what it reads alone: the self-reward off the policy, trust off the base."""
    policy = update([scored], replace(FORETOLD, lr=1e-2)).path
    second = iteration(Path("it2"), policy, groups=3).with_name("rollouts.parquet")
    loaded = 0

    class Counted(rereading.PolicyModel):
        def __init__(self, *given: Any, **more: Any) -> None:
            nonlocal loaded
            loaded += 1
            super().__init__(*given, **more)

    monkeypatch.setattr(rereading, "PolicyModel", Counted)

    def column(name: str, **asked: Any) -> list[Any]:
        params = ScoreParams(reward="answer", **asked)
        done = score([second], params, Call(policy=policy, out=Path("again.parquet"), force=True))
        return [row[name] for row in chain.rows(done.path)]

    together: dict[str, Any] = {"vote": "self-reward", "credit": "trust", "embedding": "hidden"}
    trust = column("self_reward", **together)
    assert loaded == 1 and any(trust) and trust == column("self_reward", vote="self-reward")
    credit = column("step_credit", **together)
    assert any(credit) and credit == column("step_credit", credit="trust")


def test_a_policy_that_has_not_learned_it_has_no_vote_by_self_reward(scored: Path) -> None:
    rollouts = Path("rollouts.parquet")
    with pytest.raises(UsageError, match="update with --loss-aux last-token first"):
        score([rollouts], ScoreParams(vote="self-reward"), Call(out=Path("trusted.parquet")))


@pytest.mark.parametrize(
    ("other", "warned"),
    [
        ({}, True),
        ({"adapter": "base"}, False),
        ({"learn_prompt": "Describe it."}, False),
        ({"temperature": 0.2}, False),
        ({"top_p": 0.9}, False),
        ({"sampler": "fake"}, False),
    ],
)
def test_rows_are_not_held_to_a_policy_that_did_not_sample_them(other: Row, warned: bool, workdir: Path) -> None:
    """A warning of other probabilities is of rows that were sampled as they are learned, in every pass."""
    plain = {"temperature": 1.0, "top_p": 1.0, "sampler": "vllm"}
    passes = {"passes": {"answer": plain}, "pass": "other", **plain, **other}
    recorded = Metadata("score", {"rollout": passes}, 0, (), ModelRef("model"), PolicyRef())
    row = {"role": SOLVER, "logprob_gap": 0.5, "logprob_gap_max": 1.0}
    learner = Learner(find_model("model"), FORETOLD, seed=0)
    assert (unlike_sampled([row], learner, recorded) is not None) == warned
