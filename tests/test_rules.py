"""Steps on rows of any prompt, picture and pass, on pairs and on last tokens: each against autograd in float64."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image
from torch import Tensor

from stages.contract import SOLVER
from stages.learning.control import Baseline
from stages.learning.last_token import LastToken
from stages.learning.learner import Learner, UpdateParams
from stages.learning.model import PolicyModel
from stages.learning.packing import TOKENS_PER_PASS
from stages.learning.rows import TrainingGroup
from stages.models.finding import Model, find_model
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Pixels
from stages.policy import RoleState
from tests.plain import PlainLoop, double_throughout, stock_model
from tests.test_learning import disturb, gradient, picture

KL_COEF = 0.5
Seen = tuple[tuple[Image, ...], str]
SEEN: list[Seen] = [
    ((picture("red"),), "How many?"),
    ((), "How many? A red bar of 7."),
    ((picture("blue"), picture("red", (32, 32))), "Which is larger?"),
]
TEXTS = ("<answer>4</answer>", "Step 1: The red bar is 7.", "1", "<answer>7</answer>", "The bar", "4")
BEHIND = (0, 1, 0, 2, 1, 0)
REWARDS = [1.0, 0.0, 0.5, 0.25, 0.75, 0.0]


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return find_model(str(model_dir))


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with double_throughout():
        yield


def exactly(model: Model, folder: Path, **settings: Any) -> tuple[Learner, PlainLoop]:
    """A learner in float64 whose Solver has moved, and the plain loop of the same policy."""
    learner = Learner(model, UpdateParams(kl_fixed=KL_COEF, **settings), seed=0)
    learner.model._peft.double()
    disturb(learner)
    learner.model.save_adapter(SOLVER, folder / "solver")
    plain = PlainLoop(model, stock_model(model, folder / "solver", torch.float64))
    for parameter in plain._stock.parameters():
        parameter.data = parameter.data.double()
    return learner, plain


def completions(model: Model) -> list[list[int]]:
    return [[*model.tokenizer.encode(text).ids, model.end_of_turn[0]] for text in TEXTS]


def a_group(model: PolicyModel, token_ids: list[list[int]], **more: Any) -> TrainingGroup:
    prompts = [model.process(pictures, text, Pixels()) for pictures, text in SEEN]
    logprobs = [[-2.0] * len(ids) for ids in token_ids]
    return TrainingGroup(prompts, token_ids, logprobs, REWARDS, behind=BEHIND, **more)


def read_by(plain: PlainLoop, model: Model, seen: Seen, ids: Sequence[int], base: bool = False) -> Tensor:
    """Log-probabilities [L, V] at a completion, by itself behind its own prompt, through the stock model."""
    inputs = PromptBuilder(model, Pixels()).inputs(*seen)
    completion = torch.tensor([list(ids)])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], completion], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(completion)], dim=1)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].double()
    if not base:
        return plain.logprobs(inputs, len(ids))
    with torch.no_grad(), plain._stock.disable_adapter():
        return plain.logprobs(inputs, len(ids))


def of_tokens(logp: Tensor, ids: Sequence[int]) -> Tensor:
    return logp.gather(1, torch.tensor(ids)[:, None])[:, 0]


def divergence(logp: Tensor, logq: Tensor) -> Tensor:
    return (logp.exp() * torch.where(logp.isfinite(), logp - logq, 0.0).nan_to_num(0.0)).sum(-1).mean()


def assert_same(own: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(own) == set(expected)
    for name, tensor in expected.items():
        assert (own[name] - tensor).norm() <= 1e-6 * tensor.norm(), name  # what the rows count is in float32


@pytest.mark.parametrize("tokens_per_pass", [1, 10_000])
def test_rows_are_learned_on_their_own_prompts_and_pictures(
    tokens_per_pass: int, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", tokens_per_pass)
    learner, plain = exactly(model, tmp_path, advantage="mean")
    passes = ["answer", "blind", "answer", "answer", "blind", "answer"]
    group = a_group(learner.model, completions(model), passes=passes)
    own = gradient(learner, group)
    [advantages] = learner.advantages(SOLVER, [group])
    assert advantages == pytest.approx([0.5625, -0.375, 0.0625, -0.1875, 0.375, -0.4375])  # within each pass
    for ids, behind, advantage in zip(group.token_ids, BEHIND, advantages, strict=True):
        logp, logq = (read_by(plain, model, SEEN[behind], ids, base) for base in (False, True))
        logprob = of_tokens(logp, ids)
        weight = (logprob.detach() + 2).exp().clamp(max=2)
        (((-advantage * weight * logprob).mean() + KL_COEF * divergence(logp, logq)) / len(TEXTS)).backward()
    assert_same(own, plain.gradient())


@pytest.mark.parametrize(("tokens_per_pass", "sft_coef"), [(1, 0.01), (10_000, 0.0)])
def test_preferences_are_learned_between_rows_of_any_prompt(
    tokens_per_pass: int, sft_coef: float, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over groups of the mean over their pairs, beside the divergence of every row."""
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", tokens_per_pass)
    learner, plain = exactly(model, tmp_path, loss="dpo", dpo_beta=0.3, sft_coef=sft_coef)
    ids = completions(model)
    one = a_group(learner.model, ids, pairs=[(0, 1), (3, 2), (5, 4)], step=1)
    other = TrainingGroup(one.prompts[:1], ids[:2], one.logprobs[:2], [], pairs=[(1, 0)], step=2)
    learner.references = {
        group.step: values.tolist()
        for group, values in zip((one, other), learner.readout(None, [one, other]).logprob, strict=True)
    }
    own = gradient(learner, one, other)
    total = torch.zeros(())
    for group, behind in ((one, BEHIND), (other, (0, 0))):
        logp, logq = (
            [read_by(plain, model, SEEN[at], ids, base) for ids, at in zip(group.token_ids, behind, strict=True)]
            for base in (False, True)
        )
        sums, of_base = (
            torch.stack([of_tokens(own, ids).sum() for own, ids in zip(rows, group.token_ids, strict=True)])
            for rows in (logp, logq)
        )
        assert learner.references[group.step] == pytest.approx(of_base.tolist(), rel=1e-12)
        better, worse = torch.tensor(group.pairs).T
        margin = 0.3 * ((sums - of_base)[better] - (sums - of_base)[worse])
        loss = (-torch.log(torch.sigmoid(margin)) - sft_coef * sums[better]).mean()
        loss = loss + KL_COEF * torch.stack(list(map(divergence, logp, logq))).mean()
        (loss / 2).backward()
        total = total + loss.detach() / 2
    assert_same(own, plain.gradient())
    assert learner.step(SOLVER, [one, other])["loss"] == pytest.approx(float(total), rel=1e-6)


@pytest.mark.parametrize("tokens_per_pass", [1, 10_000])
def test_the_last_token_is_learned_behind_the_end_of_turn(
    tokens_per_pass: int, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", tokens_per_pass)
    learner, plain = exactly(model, tmp_path, loss="sft", loss_aux="last-token", aux_coef=0.3)
    (token,), ids = model.tokenizer.encode("<|endoftext|>").ids, completions(model)
    learner.last = LastToken(token, 0.2, -6.0)
    ids[3] = ids[3][:-1]  # was cut off
    right: list[bool | None] = [True, False, True, None, True, False]
    group = a_group(learner.model, ids, right=right)
    own = gradient(learner, group)
    for tokens, behind, wanted in zip(ids, BEHIND, right, strict=True):
        read = tokens if wanted is None else [*tokens, token]
        logp, logq = (read_by(plain, model, SEEN[behind], read, base)[: len(tokens) + 1] for base in (False, True))
        loss = -of_tokens(logp[: len(tokens)], tokens).mean()
        loss = loss + KL_COEF * divergence(logp[: len(tokens)], logq[: len(tokens)])
        if wanted is not None:
            weight = 5 / (2 * 3) if wanted else 5 / (2 * 2)
            loss = loss + 0.3 * weight * (0.2 * (logp[-1, token] + 6.0) - float(wanted)) ** 2
        (loss / len(TEXTS)).backward()
    assert_same(own, plain.gradient())


def test_each_pass_has_a_baseline_of_its_own(model: Model) -> None:
    learner = Learner(model, UpdateParams(), seed=0)
    group = a_group(learner.model, completions(model), passes=["answer"] * 4 + ["blind"] * 2)
    assert learner.advantages(SOLVER, [group])[0][4:] == pytest.approx([0.375, -0.375])  # the group's own mean
    for of_pass, mean in group.mean_rewards().items():
        learner.observe(SOLVER, mean, of_pass)
    state = learner.roles[SOLVER]
    assert state == RoleState(Baseline().after(0.4375), 1e-3, passes={"blind": Baseline().after(0.375)})
    again = TrainingGroup(group.prompts, group.token_ids[:1], group.logprobs[:1], [1.0], passes=["blind"])
    assert learner.advantages(SOLVER, [again]) == [[pytest.approx(0.625)]]
