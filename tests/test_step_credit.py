"""Credit by step through the stages: the columns that `score` writes, and the gradient that `update` makes of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ireasoner_cli.app import app
from stages.contract import CREDIT, SOLVER
from stages.errors import DataError, UsageError
from stages.learning.learner import UpdateParams
from stages.learning.packing import TOKENS_PER_PASS
from stages.models.finding import Model, find_model
from stages.models.spans import token_spans
from stages.parameters import Call
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.parsing import parse_completion
from stages.rewards import credit
from stages.rollout import rollout
from stages.score import score
from stages.scoring.credit import first_tokens, weakest
from stages.update import update
from stages.verification.verify import verify
from tests import chain
from tests.chain import fake
from tests.plain import PlainLoop, double_throughout, stock_model
from tests.test_learning import gradient
from tests.test_rules import (
    BEHIND,
    KL_COEF,
    SEEN,
    TEXTS,
    a_group,
    assert_same,
    completions,
    divergence,
    exactly,
    of_tokens,
    read_by,
)
from tests.test_run import SETTINGS
from tests.test_update import iteration

Row = dict[str, Any]
COMPLETIONS = [
    [
        chain.solution("11", "The red bar is 4.", "4 + 7 = 11."),
        chain.solution("11", "the red bar  is 4", "4+7=11"),
        chain.solution("12", "The red bar is 4.", "It is 12."),
        "<think>\nStep 1: nothing to be seen",
    ],
    [chain.solution("3", "a"), "<answer>3</answer>", ""],
]
PARAMS = UpdateParams(lr=1e-3, advantage="mean", proposer_every=100)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def solver(path: Path) -> list[Row]:
    return [row for row in chain.rows(path) if row["role"] == SOLVER]


@pytest.fixture
def rollouts(workdir: Path) -> Path:
    groups = [chain.group(place, "pool/0.png", texts) for place, texts in enumerate(COMPLETIONS)]
    return chain.write_shard(workdir / "rollouts.parquet", groups)


@pytest.fixture
def scored(workdir: Path) -> Path:
    return iteration(Path(), groups=4)


def with_credit(path: Path, out: str, change: Callable[[Row], Row]) -> Path:
    """The shard with other rows, and the columns of credit."""
    return chain.rewritten(path, out, CREDIT, change)


# ------------------------------------------------------------------------------------------------- score


def test_the_option_has_every_estimator() -> None:
    hint, _ = get_args(get_type_hints(ScoreParams)["credit"])
    assert sorted(get_args(hint)) == credit.names()


def test_steps_are_alike_by_their_normalised_text(rollouts: Path) -> None:
    """Three of four see the same bar, two add up the same; and what says nothing has nothing in common."""
    rows = solver(score([rollouts], ScoreParams(credit="vote")).path)
    first = np.array([3, 3, 3, 1]) / 4 - 10 / 16
    second = np.array([2, 2, 1]) / 4 - 5 / 12
    answer = np.array([2, 2, 1, 1]) / 4 - 6 / 16
    for place, row in enumerate(rows[:4]):
        own = [first[place], *second[place : place + 1], answer[place]]
        assert row["step_credit"] == pytest.approx(own, abs=1e-6)


def test_a_part_begins_where_its_text_does(rollouts: Path) -> None:
    model = find_model("model")
    for row in solver(score([rollouts], ScoreParams(credit="branching")).path):
        begins, ids = row["step_tokens"], row["token_ids"]
        assert len(begins) == len(row["step_credit"]) == len(row["steps"]) + 1 and begins[0] == 0
        texts = [model.tokenizer.decode(ids[begin:]) for begin in begins]
        for text, step in zip(texts[1:], [*row["steps"], row["answer"]][1:], strict=True):
            assert text.lstrip().startswith(step) if step is not None else text == ""


def test_rows_that_are_not_learned_from_have_none(rollouts: Path) -> None:
    rows = chain.rows(score([rollouts], ScoreParams(credit="vote", top=1)).path)
    learned = [row for row in rows if row["role"] == SOLVER and row["reward"] is not None]
    assert 0 < len(learned) < len(rows) - 2
    assert all((row["step_credit"] is None) == (row not in learned) for row in rows)
    assert [row["step_credit"] for row in learned if row["group_index"] == 0] == [[0.0] * 3]  # of a group of one


def test_groups_without_rollouts_are_scored(workdir: Path) -> None:
    path = chain.write_shard(workdir / "rollouts.parquet", [chain.group(0, "pool/0.png", [], question=None)])
    assert chain.rows(score([path], ScoreParams(credit="trust")).path)[0]["step_credit"] is None


@pytest.mark.parametrize("estimator", credit.names())
def test_it_does_not_matter_how_the_work_is_cut(estimator: Any, scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, rolled = ScoreParams(credit=estimator), [Path("rollouts.parquet")]
    whole = score(rolled, params, Call(out=Path("whole.parquet"))).path
    assert {each.path: each.replayed for each in verify([whole], again=True)}[whole] == "same bytes"
    monkeypatch.setattr("stages.score.GROUPS_PER_BLOCK", 1)
    for part in ("1/2", "2/2"):
        sampled = RolloutParams(sampling=fake())
        rollout([Path("questions.parquet")], sampled, Call(out=Path("parts"), shard=part))
    assert chain.rows(score([Path("parts")], params, Call(out=Path("parted.parquet"))).path) == chain.rows(whole)

    monkeypatch.setattr("stages.shards.output.GROUPS_PER_CHUNK", 1)
    blocks = iter(range(3))

    def dies(*given: Any) -> Any:
        if next(blocks, None) is None:
            raise KeyboardInterrupt
        return block(*given)

    from stages.scoring.block import score_block as block

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("stages.score.score_block", dies)
        score(rolled, params, Call(out=Path("again.parquet")))
    assert list(Path(".again.parquet.partial").glob("chunk-*"))
    score(rolled, params, Call(out=Path("again.parquet")))
    assert chain.rows(Path("again.parquet")) == chain.rows(whole)


@given(token_ids=st.lists(st.integers(0, 399), min_size=1, max_size=60))
def test_the_parts_of_whatever_was_sampled_tile_its_tokens(model_dir: Path, token_ids: list[int]) -> None:
    tokenizer = find_model(str(model_dir)).tokenizer
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    completion = parse_completion(text)
    row = {"group_id": "", "role": SOLVER, "sample_index": 0, "completion": text, "token_ids": token_ids}
    spans = token_spans(tokenizer, row)
    begins = first_tokens(completion, spans[1]).tolist()
    assert begins == sorted(begins) and begins[0] == 0 and begins[-1] < len(token_ids)
    assert len(begins) == len(completion.steps) + 1
    assert len(weakest(completion, row, spans, np.zeros(len(token_ids)))) == len(begins)


def test_trust_goes_by_the_base_models_weakest_content_token(rollouts: Path) -> None:
    """By a policy's rollouts, too: log π_ref is read by the stock model, a row at a time, without any adapter."""
    rows = solver(score([rollouts], ScoreParams(credit="trust")).path)
    model = find_model("model")
    plain = PlainLoop(model, stock_model(model))
    from stages.images import load_all
    from tests.plain import Example

    for index in (0, 1):
        group = [row for row in rows if row["group_index"] == index]
        mean = sum(row["reward"] for row in group) / len(group)
        for row in group:
            [image] = load_all(row)
            example = Example(image, row["prompt"], [row["token_ids"]], [[]], [0.0])
            with torch.no_grad():
                logprobs = of_tokens(plain.group_logprobs(example)[0], row["token_ids"]).numpy()
            starts, ends = token_spans(model.tokenizer, row)
            weights = []
            for start, text in _said(row):
                inside = [
                    logprob
                    for begin, end, logprob in zip(starts, ends, logprobs, strict=True)
                    if end > start and begin < start + len(text) and any(map(str.isalnum, row["completion"][begin:end]))
                ]
                p = float(np.exp(min(inside))) if inside else np.nan
                weights.append(p if row["reward"] > mean else 1 - p)
            known = [place for place, weight in enumerate(weights) if not np.isnan(weight)]
            counts = np.diff(row["step_tokens"], append=len(row["token_ids"]))
            total = sum(weights[place] * counts[place] for place in known) / max(
                1, sum(counts[place] for place in known)
            )
            expected = [
                (row["reward"] - mean) * (w / total if place in known else 1.0) for place, w in enumerate(weights)
            ]
            assert row["step_credit"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def _said(row: Row) -> list[tuple[int, str]]:
    """Where the steps and the answer stand in a completion, and what they are."""
    found = parse_completion(row["completion"])
    return [*zip(found.starts, found.steps, strict=True), (found.answer_start or 0, found.answer or "")]


def test_the_base_is_asked_whatever_the_policy(scored: Path) -> None:
    """A policy need not be there for it; and the same rollouts have the same credit whoever sampled them."""
    policy = update([scored], replace(PARAMS, lr=3e-2), Call(out=Path("it1/policy"))).path
    second = iteration(Path("it2"), policy, groups=3).with_name("rollouts.parquet")
    rows = [[row for row in chain.rows(second) if row["group_index"] == index] for index in range(3)]
    kept = chain.metadata(second)
    del kept["policy"], kept["stage"], kept["format"]
    based = chain.write_shard(Path("based.parquet"), rows, **kept)
    shutil.rmtree(policy)
    params = ScoreParams(credit="trust", reward="answer")
    one, other = (solver(score([path], params, Call(out=out)).path) for path, out in (
        (second, Path("one.parquet")), (based, Path("other.parquet"))
    ))  # fmt: skip
    assert [row["step_credit"] for row in one] == [row["step_credit"] for row in other]
    assert chain.metadata(Path("one.parquet"))["device"]["name"] == "cpu"


def test_rows_without_tokens_have_none(workdir: Path) -> None:
    """Whatever else of them is there."""
    group = chain.group(0, "pool/0.png", COMPLETIONS[0])
    path = chain.write_shard(workdir / "rollouts.parquet", [[*group[:-1], group[-1] | {"token_ids": None}]])
    rows = solver(score([path], ScoreParams(credit="vote")).path)
    assert [row["step_credit"] is None for row in rows] == [False, False, False, True]


@pytest.mark.parametrize(
    "change", [{"completion": "<answer>4</answer>"}, {"token_ids": [-1] * 9, "logprobs": [0.0] * 9}]
)
def test_rows_of_other_tokens_are_refused(change: Row, workdir: Path) -> None:
    group = chain.group(0, "pool/0.png", COMPLETIONS[0])
    path = chain.write_shard(workdir / "rollouts.parquet", [[*group[:-1], group[-1] | change]])
    done = call("score", path, "--credit", "vote")
    assert done.exit_code == 3 and "solver 3: its completion is not what its token_ids say" in done.stderr


def test_pairs_have_no_credit(rollouts: Path) -> None:
    done = call("score", rollouts, "--credit", "vote", "--pairs", "better:answer:answer")
    assert done.exit_code == 2 and "leave out --credit" in done.stderr


def test_a_dry_run_looks_at_the_pictures_that_trust_will_read(scored: Path) -> None:
    asked = ("score", "rollouts.parquet", "--out", "other.parquet", "--dry-run", "--credit")
    Path("pool").rename("elsewhere")
    assert call(*asked, "vote").exit_code == 0
    assert call(*asked, "trust").exit_code == 3


# ------------------------------------------------------------------------------------------------ update


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return find_model(str(model_dir))


@pytest.mark.parametrize("tokens_per_pass", [1, 10_000])
@pytest.mark.parametrize("loss", ["policy-gradient", "clip"])
def test_the_gradient_is_that_of_a_plain_loop(
    loss: Any, tokens_per_pass: int, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every token by the advantage of its own step, in float64."""
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", tokens_per_pass)
    with double_throughout():
        learner, plain = exactly(model, tmp_path, loss=loss)
        ids = completions(model)
        rng = np.random.default_rng(0)
        credits = [rng.normal(size=len(own)).tolist() for own in ids]
        group = a_group(learner.model, ids, credit=credits)
        own = gradient(learner, group)
        assert learner.advantages(SOLVER, [group])[0] == pytest.approx([float(np.mean(each)) for each in credits])
        for tokens, behind, values in zip(ids, BEHIND, credits, strict=True):
            logp, logq = (read_by(plain, model, SEEN[behind], tokens, base) for base in (False, True))
            logprob, advantage = of_tokens(logp, tokens), torch.tensor(values)
            if loss == "clip":
                ratio = (logprob + 2).exp()
                each = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.3))
            else:
                each = -advantage * (logprob.detach() + 2).exp().clamp(max=2) * logprob
            ((each.mean() + KL_COEF * divergence(logp, logq)) / len(TEXTS)).backward()
        assert_same(own, plain.gradient())


def test_credit_that_is_the_advantage_throughout_changes_nothing(scored: Path) -> None:
    """Byte for byte, however many parts a row has."""
    rewards: dict[str, list[float]] = {}
    for row in solver(scored):
        rewards.setdefault(row["group_id"], []).append(row["reward"])

    def change(row: Row) -> Row:
        if row["role"] != SOLVER:
            return row
        own = rewards[row["group_id"]]
        advantage = 0.0 if min(own) == max(own) else row["reward"] - sum(own) / len(own)
        begins = [0, *range(2, len(row["token_ids"]), 5)]
        return row | {"step_credit": [advantage] * len(begins), "step_tokens": begins}

    update([scored], PARAMS, Call(out=Path("usual")))
    update([with_credit(scored, "credited.parquet", change)], PARAMS, Call(out=Path("credited")))
    usual, credited = (chain.file_bytes(Path(folder)) for folder in ("usual", "credited"))
    assert all(usual[name] == credited[name] for name in usual if name.endswith(".safetensors"))
    for one, other in zip(*(chain.rows(Path(f, "metrics.parquet")) for f in ("usual", "credited")), strict=True):
        assert other == one | {"advantages": pytest.approx(one["advantages"], abs=1e-7)}


def test_a_chain_with_credit_is_learned_from_resumed_and_verified(scored: Path) -> None:
    shard = score([Path("rollouts.parquet")], ScoreParams(credit="branching"), Call(out=Path("credited.parquet"))).path
    whole = update([shard], UpdateParams(lr=1e-3), Call(out=Path("whole"))).path
    from tests.test_update_choices import dies_after

    with dies_after(2):
        update([shard], UpdateParams(lr=1e-3), Call(out=Path("again")), checkpoint_seconds=0)
    update([shard], UpdateParams(lr=1e-3), Call(out=Path("again")))
    assert chain.file_bytes(Path("again")) == chain.file_bytes(whole)
    plain = update([scored], UpdateParams(lr=1e-3), Call(out=Path("plain"))).path
    assert (
        chain.file_bytes(plain)["solver/adapter_model.safetensors"]
        != (whole / "solver" / "adapter_model.safetensors").read_bytes()
    )
    assert {each.path: each.replayed for each in verify([whole], again=True)}[whole] == "same bytes"


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"loss": "sft", "roles": "solver"}, "which --loss sft cannot take"),
        ({"loss": "dpo", "roles": "solver"}, "which --loss dpo cannot take"),
        ({"advantage": "grpo"}, "--advantage grpo would be another"),
        ({"advantage": "none"}, "--advantage none would be another"),
    ],
)
def test_what_makes_no_sense_of_credit_is_refused(params: Row, told: str, scored: Path) -> None:
    shard = with_credit(scored, "credited.parquet", lambda row: row)
    with pytest.raises(UsageError, match=told):
        update([shard], replace(UpdateParams(), **params))
    update([shard], UpdateParams(roles="proposer", advantage="none", proposer_every=1))  # which has none


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("step_credit", [0.5], "its step_credit is not one finite number for each of its step_tokens"),
        ("step_credit", [0.5, float("nan")], "its step_credit is not one finite number for each of its step_tokens"),
        ("step_tokens", [1, 2], "its step_tokens do not ascend from 0"),
        ("step_tokens", [0, 999], "its step_tokens do not ascend from 0"),
        ("step_credit", None, "its step_credit is not one finite number"),
    ],
)
def test_credit_of_another_tool_is_looked_at(column: str, value: Any, told: str, scored: Path) -> None:
    """By `update` and by `verify`."""

    def change(row: Row) -> Row:
        if row["role"] != SOLVER:
            return row
        return row | {"steps": ["one"], "step_credit": [0.5, -0.5], "step_tokens": [0, 3]} | {column: value}

    shard = with_credit(scored, "credited.parquet", change)
    with pytest.raises(DataError, match=told):
        update([shard], PARAMS)
    with pytest.raises(DataError, match="solver 0: "):
        list(verify([shard]))


# -------------------------------------------------------------------------------- what is checked, and shown


@pytest.mark.parametrize("estimator", credit.names())
def test_sums_that_are_not_the_advantage_are_found(estimator: Any, scored: Path) -> None:
    shard = score([Path("rollouts.parquet")], ScoreParams(credit=estimator), Call(out=Path("credited.parquet"))).path
    assert list(verify([shard]))
    first = next(row["group_id"] for row in solver(shard))

    def change(row: Row) -> Row:
        if row["group_id"] != first or row["role"] != SOLVER or row["sample_index"]:
            return row
        return row | {"step_credit": [value + 0.1 for value in row["step_credit"]]}

    changed = with_credit(shard, "changed.parquet", change)
    with pytest.raises(DataError, match=f"group {first}: .*step_credit"):
        list(verify([changed]))


def test_rows_without_an_answer_are_like_nothing(workdir: Path) -> None:
    """Each is a path of its own, whatever another of them earns."""
    texts = [chain.solution("11", "a", "b"), "<think>Short.</think>", "I cannot tell.", ""]
    chain.write_shard(Path("rollouts.parquet"), [chain.group(0, "pool/0.png", texts)])
    params = ScoreParams(solver_reward="majority + 0.1*format", form="think", credit="branching")
    shard = score([Path("rollouts.parquet")], params).path
    assert len({row["reward"] for row in solver(shard) if row["answer_key"] is None}) == 2
    assert list(verify([shard]))


def test_it_is_shown(scored: Path) -> None:
    assert call("score", "rollouts.parquet", "--credit", "vote", "--out", "credited.parquet").exit_code == 0
    row = max(solver(Path("credited.parquet")), key=lambda row: abs(row["step_credit"][0]))
    done = call("inspect", "credited.parquet", "--group", row["group_id"])
    assert done.exit_code == 0 and f"{row['step_credit'][0]:+.3f}" in done.stdout
    done = call("inspect", "credited.parquet", "--json")
    assert "step_credit" in json.loads(done.stdout)["distributions"]
    done = call("inspect", "scored.parquet", "--json")
    assert "step_credit" not in json.loads(done.stdout)["distributions"]


def test_a_run_passes_it_on(workdir: Path) -> None:
    Path("ireasoner.toml").write_text(SETTINGS.replace("[score]", '[score]\ncredit = "vote"'))
    done = call("run", "--images", "pool", "--out", "run", "--iterations", 1)
    assert done.exit_code == 0, done.output
    shard = Path("run/it0001/scored.parquet")
    assert chain.metadata(shard)["params"]["credit"] == "vote" and any(row["step_credit"] for row in solver(shard))
    assert list(verify([Path("run")]))
