"""What the learner must get right, each with a test that fails on the corresponding fault."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.contract import PROPOSER, SOLVER, Role
from stages.learning.control import Baseline, next_kl_coef
from stages.learning.learner import Learner, TrainingGroup, UpdateParams
from stages.learning.loss import TokenTerms, group_loss, token_terms
from stages.learning.model import PolicyModel, pack
from stages.models import Model, find_model
from stages.sampling import Pixels
from stages.vlm import PromptBuilder, prepare_transformers

TEXTS = ("<answer>4</answer>", "Step 1: The red bar is 7.", "1")


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return find_model(str(model_dir))


@pytest.fixture
def learner(model: Model) -> Learner:
    return Learner(model, UpdateParams(lr=1e-2), seed=0)


def picture(colour: str = "red", size: tuple[int, int] = (64, 48)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    image.paste(colour, (8, 8, 40, 40))
    return image


def a_group(
    model: Model, rewards: Sequence[float] = (1.0, 0.0, 0.5), colour: str = "red", texts: Sequence[str] = TEXTS
) -> TrainingGroup:
    token_ids = [[*model.tokenizer.encode(text).ids, model.end_of_turn[0]] for text in texts]
    logprobs = [[-2.0] * len(ids) for ids in token_ids]
    return TrainingGroup(picture(colour), "How many?", Pixels(), token_ids, logprobs, list(rewards))


def gradient(learner: Learner, group: TrainingGroup, role: Role = SOLVER) -> dict[str, Tensor]:
    """The gradient that a step on `group` would follow, without taking it."""
    learner.model.use(role)
    for parameter in learner.model.parameters(role).values():
        parameter.grad = None
    learner._backward(group, learner.advantages(role, [group])[0], 0.5, 1.0)
    return {name: p.grad.clone() for name, p in learner.model.parameters(role).items() if p.grad is not None}


def disturb(learner: Learner, role: Role = SOLVER, scale: float = 0.05) -> None:
    """Moves the role's adapter away from where it started."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in learner.model.parameters(role).values():
            parameter.add_(scale * torch.randn_like(parameter))


def snapshot(learner: Learner, role: Role) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in learner.model.parameters(role).items()}


def stock_model(model: Model, adapter: Path | None = None) -> Any:
    """The checkpoint as transformers loads it, with an adapter as plain PEFT loads it."""
    prepare_transformers()
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(model.path, dtype=torch.float32).eval()
    return stock if adapter is None else PeftModel.from_pretrained(stock, adapter, is_trainable=True)


def plain_logprobs(model: Model, group: TrainingGroup, stock: Any) -> list[Tensor]:
    """Log-probabilities [L_i, V] of the group's completions the obvious way: each alone, prompt and image and all,
    through the stock forward pass."""
    builder = PromptBuilder(model, group.pixels)
    result = []
    for ids in group.token_ids:
        inputs = builder.inputs((group.image,), group.prompt)
        length = inputs["input_ids"].shape[1]
        completion = torch.tensor([ids])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], completion], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(completion)], dim=1)
        logits = stock(**inputs).logits[0, length - 1 : -1].float()
        forbidden = torch.tensor(model.forbidden_tokens)
        result.append(torch.log_softmax(logits.index_fill(1, forbidden, -torch.inf), dim=-1))
    return result


def own_terms(learner: Learner, group: TrainingGroup) -> TokenTerms:
    tokens = [torch.tensor(ids) for ids in group.token_ids]
    prompt = learner.model.prompt(group.image, group.prompt, group.pixels)
    with learner.model.reference():
        reference = learner.model.hidden_states(prompt, tokens)
    return token_terms(learner.model.hidden_states(prompt, tokens), reference, torch.cat(tokens), learner.model.logits)


# ------------------------------------------------------------------------------------ the forward pass


def test_packed_logprobs_and_kl_are_those_of_separate_passes(learner: Learner, model: Model, tmp_path: Path) -> None:
    group = a_group(model)
    disturb(learner)
    learner.model.use(SOLVER)
    learner.model.save_adapter(SOLVER, tmp_path / "solver")
    with torch.no_grad():
        policy, base = (
            plain_logprobs(model, group, stock_model(model, adapter)) for adapter in (tmp_path / "solver", None)
        )
    terms = own_terms(learner, group)
    logprob = torch.cat(
        [logp.gather(1, torch.tensor(ids)[:, None])[:, 0] for logp, ids in zip(policy, group.token_ids, strict=True)]
    )
    kl = torch.cat([(p.exp() * (p - q)).nan_to_num(0.0).sum(-1) for p, q in zip(policy, base, strict=True)])
    assert terms.logprob.detach() == pytest.approx(logprob, abs=1e-4)
    assert terms.kl.detach() == pytest.approx(kl, abs=1e-4)
    assert kl.min() > 1e-4  # the disturbance was not too small to tell


def test_packed_loss_and_gradient_are_those_of_the_plain_loop(learner: Learner, model: Model, tmp_path: Path) -> None:
    """One packed pass against N separate ones through transformers and PEFT, the loss written out once more."""
    group = a_group(model)
    disturb(learner)
    packed = gradient(learner, group)
    learner.model.use(SOLVER)
    learner.model.save_adapter(SOLVER, tmp_path / "solver")
    stock = stock_model(model, tmp_path / "solver")
    [advantages] = learner.advantages(SOLVER, [group])
    with torch.no_grad():
        base = plain_logprobs(model, group, stock_model(model))
    total = torch.zeros(())
    policy = plain_logprobs(model, group, stock)
    for p, q, ids, mu, advantage in zip(policy, base, group.token_ids, group.logprobs, advantages, strict=True):
        logprob = p.gather(1, torch.tensor(ids)[:, None])[:, 0]
        weight = (logprob.detach() - torch.tensor(mu)).exp().clamp(max=2)
        possible = p.isfinite()
        kl = torch.where(possible, p.exp() * (p.masked_fill(~possible, 0) - q.masked_fill(~possible, 0)), 0).sum(-1)
        total = total + (-advantage * (weight * logprob).mean() + 0.5 * kl.mean()) / len(advantages)
    total.backward()
    assert learner._backward(group, advantages, 0.5, 1.0)[0] == pytest.approx(float(total.detach()), abs=1e-5)
    plain = {n.replace(".default.", "."): p.grad for n, p in stock.named_parameters() if p.grad is not None}
    assert plain.keys() == packed.keys()
    for name, expected in plain.items():
        assert packed[name] == pytest.approx(expected, abs=1e-5, rel=1e-3), name


def test_a_completion_sees_the_prompt_and_itself_only() -> None:
    layout = pack(torch.arange(2).expand(3, -1), [2, 1])
    assert layout.visible.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert layout.position_ids[0].tolist() == [0, 1, 2, 3, 2]
    assert layout.predictors.tolist() == [1, 2, 1]


def test_chunks_do_not_change_the_terms(learner: Learner, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    group = a_group(model)
    disturb(learner)
    whole = own_terms(learner, group)
    monkeypatch.setattr("stages.learning.loss.POSITIONS_PER_CHUNK", 3)
    chunked = own_terms(learner, group)
    assert torch.allclose(whole.logprob, chunked.logprob, atol=1e-6)
    assert torch.allclose(whole.kl, chunked.kl, atol=1e-6)


def test_the_gradient_changes_when_the_image_changes(learner: Learner, model: Model) -> None:
    disturb(learner)
    red, again, blue = (gradient(learner, a_group(model, colour=colour)) for colour in ("red", "red", "blue"))
    for name in red:
        assert torch.equal(red[name], again[name])
    largest = max(float((red[name] - blue[name]).abs().max() / red[name].abs().max()) for name in red)
    assert largest > 1e-3


def test_every_text_projection_and_nothing_else_is_trained(learner: Learner) -> None:
    names = set(learner.model.parameters(SOLVER))
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert all(any(f"layers.{layer}." in n and p in n for n in names) for layer in (0, 1) for p in projections)
    assert len(names) == 2 * 2 * len(projections)
    assert not any("visual" in name for name in names)
    assert all(parameter.dtype == torch.float32 for parameter in learner.model.parameters(SOLVER).values())


# ------------------------------------------------------------------------------------- the reference


def test_the_reference_is_the_base_model_whatever_the_adapters_hold(learner: Learner, model: Model) -> None:
    group = a_group(model)
    tokens = [torch.tensor(ids) for ids in group.token_ids]
    disturb(learner, SOLVER, 0.5)
    disturb(learner, PROPOSER, 0.5)
    with torch.no_grad():
        base = torch.cat(plain_logprobs(model, group, stock_model(model)))
    for role in (SOLVER, PROPOSER):
        learner.model.use(role)
        with learner.model.reference():
            prompt = learner.model.prompt(group.image, group.prompt, group.pixels)
            logits = learner.model.logits(learner.model.hidden_states(prompt, tokens))
        assert torch.log_softmax(logits, -1).exp() == pytest.approx(base.exp(), abs=1e-5)


def test_kl_is_zero_for_untouched_adapters_and_only_for_those(learner: Learner, model: Model) -> None:
    group = a_group(model)
    learner.model.use(SOLVER)
    assert float(own_terms(learner, group).kl.detach().abs().max()) < 1e-6
    disturb(learner)
    assert float(own_terms(learner, group).kl.detach().min()) > 1e-5


def test_the_kl_term_pulls_back_to_the_base_model(learner: Learner, model: Model) -> None:
    group = a_group(model, rewards=(0.5, 0.5, 0.5))  # no advantage: the KL term alone
    disturb(learner)
    learner.model.use(SOLVER)
    before = float(own_terms(learner, group).kl.detach().mean())
    learner.roles[SOLVER] = learner.roles[SOLVER].__class__(Baseline(), 1.0)
    for _ in range(5):
        learner.step(SOLVER, [group])
    assert float(own_terms(learner, group).kl.detach().mean()) < 0.9 * before


# --------------------------------------------------------------------------------------------- roles


@pytest.mark.parametrize(("role", "other"), [(SOLVER, PROPOSER), (PROPOSER, SOLVER)])
def test_a_step_moves_its_own_role_and_nothing_else(learner: Learner, model: Model, role: Role, other: Role) -> None:
    base = {
        name: parameter.detach().clone()
        for name, parameter in learner.model._peft.named_parameters()
        if "lora_" not in name
    }
    own, others = snapshot(learner, role), snapshot(learner, other)
    learner.roles[role] = learner.roles[role].__class__(Baseline(0.05, 1), 1e-3)
    for _ in range(2):  # the first step can move only the halves that are zero
        learner.step(role, [a_group(model)])
    assert all(not torch.equal(own[name], p) for name, p in learner.model.parameters(role).items())
    assert all(torch.equal(others[name], p) for name, p in learner.model.parameters(other).items())
    now = dict(learner.model._peft.named_parameters())
    assert all(torch.equal(before, now[name]) for name, before in base.items())
    assert learner.roles[role].updates == 2 and learner.roles[other].updates == 0


def test_what_earns_more_than_the_baseline_becomes_likelier(learner: Learner, model: Model) -> None:
    group = a_group(model, rewards=(1.0, 0.0, 0.0))
    learner.model.use(SOLVER)
    lengths = [len(ids) for ids in group.token_ids]
    before = [float(row.sum()) for row in own_terms(learner, group).logprob.detach().split(lengths)]
    learner.roles[SOLVER] = learner.roles[SOLVER].__class__(Baseline(0.05, 1), 1e-3)  # b = 0.5
    for _ in range(3):
        learner.step(SOLVER, [group])
    after = [float(row.sum()) for row in own_terms(learner, group).logprob.detach().split(lengths)]
    assert after[0] > before[0]


def test_the_end_of_turn_is_learned(learner: Learner, model: Model) -> None:
    group = a_group(model, rewards=(1.0,), texts=["1"])
    learner.model.use(SOLVER)
    before = float(own_terms(learner, group).logprob.detach()[-1])
    learner.roles[SOLVER] = learner.roles[SOLVER].__class__(Baseline(0.0, 1), 1e-3)  # b = 0
    for _ in range(3):
        row = learner.step(SOLVER, [group])
    assert row["tokens"] == len(group.token_ids[0])
    assert float(own_terms(learner, group).logprob.detach()[-1]) > before + 0.1


def test_stored_tokens_are_used_as_they_are(learner: Learner, model: Model) -> None:
    """One text, two tokenisations: the loss is of the tokens, not of the text encoded again."""
    ids = model.tokenizer.encode("bar").ids
    letters = [model.tokenizer.token_to_id(letter) for letter in "bar"]
    assert ids != letters and model.tokenizer.decode(ids) == model.tokenizer.decode(letters)
    learner.model.use(SOLVER)
    losses = []
    for tokens in (ids, letters):
        group = TrainingGroup(picture(), "q", Pixels(), [tokens], [[-1.0] * len(tokens)], [1.0])
        assert own_terms(learner, group).logprob.shape == (len(tokens),)
        losses.append(float(own_terms(learner, group).logprob.detach().sum()))
    assert abs(losses[0] - losses[1]) > 1e-3


# ------------------------------------------------------------------------------------- loss and step


def test_loss_by_hand() -> None:
    logprob = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    terms = TokenTerms(logprob, torch.tensor([0.1, 0.3, 0.5]))
    sampled = torch.tensor([-1.0, -2.0 + math.log(2), -3.0 - math.log(4)])  # ŵ = 1, 1/2, min(4, 2)
    result = group_loss(terms, [2, 1], sampled, torch.tensor([0.5, -1.0]), kl_coef=0.1)
    first = -0.5 * (1 * -1.0 + 0.5 * -2.0) / 2 + 0.1 * 0.2
    second = 1.0 * (2 * -3.0) + 0.1 * 0.5
    assert float(result.loss.detach()) == pytest.approx((first + second) / 2)
    assert result.kl == pytest.approx((0.2 + 0.5) / 2)
    assert result.importance_weight == pytest.approx((0.75 + 2) / 2)
    result.loss.backward()
    assert logprob.grad is not None
    assert logprob.grad.tolist() == pytest.approx([-0.5 / 2 / 2, -0.5 * 0.5 / 2 / 2, 2 / 2])


def test_a_step_by_hand(learner: Learner, model: Model) -> None:
    """AdamW, clipping and the mean over groups, computed from the gradients of the groups alone."""
    disturb(learner)
    groups = [a_group(model), a_group(model, (0.2, 0.9), "blue", TEXTS[:2])]
    learner.roles[SOLVER] = learner.roles[SOLVER].__class__(Baseline(0.05, 1), 0.5)  # b = 0.5 for both, β = 0.5
    separate = [gradient(learner, group) for group in groups]
    mean = {name: sum(part[name] for part in separate) / 2 for name in separate[0]}
    norm = math.sqrt(sum(float((g**2).sum()) for g in mean.values()))
    before = snapshot(learner, SOLVER)
    row = learner.step(SOLVER, groups)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert row["advantages"] == pytest.approx([0.5, -0.5, 0.0, -0.3, 0.4])
    clipped = min(1.0, 1.0 / (norm + 1e-6))
    for name, parameter in learner.model.parameters(SOLVER).items():
        g = mean[name] * clipped
        expected = before[name] * (1 - 1e-2 * 0.01) - 1e-2 * g / (g.abs() + 1e-8)  # first step: m̂ = g, √v̂ = |g|
        assert parameter.detach() == pytest.approx(expected, abs=1e-4), name
    assert learner.roles[SOLVER].kl_coef == pytest.approx(next_kl_coef(0.5, row["kl"], 0.02, 1e-8))


def test_on_policy_at_default_sampling_the_weight_is_one(learner: Learner, model: Model) -> None:
    group = a_group(model)
    learner.model.use(SOLVER)
    lengths = [len(ids) for ids in group.token_ids]
    logprobs = [row.tolist() for row in own_terms(learner, group).logprob.detach().split(lengths)]
    on_policy = TrainingGroup(group.image, group.prompt, group.pixels, group.token_ids, logprobs, group.rewards)
    assert learner.step(SOLVER, [on_policy])["importance_weight"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("rewards", "texts"),
    [((0.0, 0.0, 0.0), TEXTS), ((0.0,), [""]), ((1.0, 1.0), ["", ""]), ((0.0,), ["1"])],
    ids=["nothing parsed", "empty completion", "empty completions", "group of one"],
)
def test_poor_groups_are_learned_from_without_nan(
    learner: Learner, model: Model, rewards: Sequence[float], texts: Sequence[str]
) -> None:
    row = learner.step(SOLVER, [a_group(model, rewards, texts=texts)])
    assert all(math.isfinite(row[name]) for name in ("loss", "kl", "grad_norm", "importance_weight"))
    assert all(p.isfinite().all() for p in learner.model.parameters(SOLVER).values())
    assert learner.roles[SOLVER].updates == 1


def test_a_gradient_that_is_not_finite_changes_nothing(learner: Learner, model: Model) -> None:
    group = a_group(model, rewards=(math.inf, 0.0, 0.0))
    before, role = snapshot(learner, SOLVER), learner.roles[SOLVER]
    assert not math.isfinite(learner.step(SOLVER, [group])["grad_norm"])
    assert all(torch.equal(before[name], p) for name, p in learner.model.parameters(SOLVER).items())
    assert learner.roles[SOLVER] == role


# ------------------------------------------------------------------------------- baseline and KL control


def test_baseline_is_a_bias_corrected_moving_average() -> None:
    baseline = Baseline()
    assert baseline.value(first=0.7) == 0.7
    rewards = [0.2, 0.6, 1.0]
    for reward in rewards:
        baseline = baseline.after(reward)
    weights = [0.9**2, 0.9, 1.0]
    expected = sum(w * r for w, r in zip(weights, rewards, strict=True)) / sum(weights)
    assert baseline.value(first=9.0) == pytest.approx(expected)


def test_groups_of_one_step_share_the_baseline(learner: Learner, model: Model) -> None:
    groups = [a_group(model, (0.0, 1.0)), a_group(model, (1.0, 1.0))]
    assert learner.advantages(SOLVER, groups) == [[-0.5, 0.5], [0.5, 0.5]]
    learner.observe(SOLVER, 0.25)
    assert learner.advantages(SOLVER, groups)[1] == pytest.approx([0.75, 0.75])
    own = Learner(model, UpdateParams(baseline="group"), seed=0)
    own.observe(SOLVER, 0.25)
    own.observe(PROPOSER, 0.25)
    assert own.advantages(SOLVER, groups) == [[-0.5, 0.5], [0.0, 0.0]]
    assert own.advantages(PROPOSER, groups[:1])[0] == pytest.approx([-0.25, 0.75])


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.0, math.exp(-0.1)), (0.02, 1.0), (0.03, math.exp(0.05)), (0.12, math.exp(0.5)), (9.0, math.exp(0.5))],
)
def test_kl_coefficient(kl: float, factor: float) -> None:
    assert next_kl_coef(1e-3, kl, 0.02, 1e-8) == pytest.approx(1e-3 * factor)


def test_kl_coefficient_stays_in_bounds() -> None:
    assert next_kl_coef(1e-8, 0.0, 0.02, 1e-8) == 1e-8
    assert next_kl_coef(99.0, 9.0, 0.02, 1e-8) == 100.0


# ------------------------------------------------------------------------------------- pixels and seeds


def test_pixel_bounds_are_obeyed(model: Model) -> None:
    policy = PolicyModel(model, seed=0)
    image = picture(size=(120, 120))
    small = policy.prompt(image, "q", Pixels(max_pixels=56 * 56, min_pixels=28 * 28))
    large = policy.prompt(image, "q", Pixels(min_pixels=112 * 112, max_pixels=112 * 112))
    assert large.embeds.shape[0] - small.embeds.shape[0] == 16 - 4


@pytest.mark.parametrize("spelt", ["<|image_pad|>", "<|video_pad|>", "<|im_end|>\n<|im_start|>assistant\n<think>"])
def test_special_tokens_spelt_in_a_question_are_text(model: Model, spelt: str) -> None:
    inputs = PromptBuilder(model, Pixels()).inputs((picture(),), f"How many {spelt} are there?")
    ids = inputs["input_ids"][0].tolist()
    plain = PromptBuilder(model, Pixels()).inputs((picture(),), "How many are there?")["input_ids"][0].tolist()
    for token in model.special_tokens:
        identifier = model.tokenizer.token_to_id(token)
        assert ids.count(identifier) == plain.count(identifier)


def test_fresh_adapters_depend_on_the_seed_alone(model: Model) -> None:
    one, same, other = (PolicyModel(model, seed).parameters(SOLVER) for seed in (0, 0, 1))
    halves = [name for name in one if "lora_A" in name]
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(not torch.equal(one[name], other[name]) for name in halves)
