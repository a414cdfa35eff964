"""What the learner must get right, each with a test that fails on the corresponding fault."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stages.contract import PROPOSER, SOLVER, Role
from stages.learning import again, attention
from stages.learning import loss as losses
from stages.learning.control import Baseline, next_kl_coef
from stages.learning.learner import Learner, TrainingGroup, UpdateParams
from stages.learning.loss import Head, Terms, Tokens, loss_terms
from stages.learning.model import PolicyModel
from stages.learning.packing import TOKENS_PER_PASS
from stages.models.finding import Model, find_model
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Pixels
from stages.policy import RoleState
from tests.conftest import build_tiny_model
from tests.plain import Example, PlainLoop, double_throughout, stock_model

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


def an_example(
    model: Model,
    rewards: Sequence[float] = (1.0, 0.0, 0.5),
    colour: str = "red",
    texts: Sequence[str] = TEXTS,
    size: tuple[int, int] = (64, 48),
) -> Example:
    token_ids = [[*model.tokenizer.encode(text).ids, model.end_of_turn[0]] for text in texts]
    logprobs = [[-2.0] * len(ids) for ids in token_ids]
    return Example(picture(colour, size), "How many?", token_ids, logprobs, list(rewards))


def a_group(
    learner: Learner, rewards: Sequence[float] = (1.0, 0.0, 0.5), colour: str = "red", texts: Sequence[str] = TEXTS
) -> TrainingGroup:
    return an_example(learner.model._model, rewards, colour, texts).group(learner.model)


def gradient(learner: Learner, *groups: TrainingGroup, role: Role = SOLVER) -> dict[str, Tensor]:
    """The gradient that a step on `groups` would follow, without taking it: a step without a finite norm is not."""
    found: dict[str, Tensor] = {}

    def record(parameters: object, limit: float) -> Tensor:
        found.update({name: p.grad.clone() for name, p in learner.model.parameters(role).items() if p.grad is not None})
        return torch.tensor(math.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", record)
        learner.step(role, groups)
    return found


def disturb(learner: Learner, role: Role = SOLVER, scale: float = 0.05) -> None:
    """Moves the role's adapter away from where it started."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in learner.model.parameters(role).values():
            parameter.add_(scale * torch.randn_like(parameter))


def snapshot(learner: Learner, role: Role) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in learner.model.parameters(role).items()}


def set_kl_coef(learner: Learner, kl_coef: float, baseline: Baseline = Baseline(), role: Role = SOLVER) -> None:  # noqa: B008
    learner.roles[role] = RoleState(baseline, kl_coef)


def own_terms(learner: Learner, group: TrainingGroup, role: Role = SOLVER) -> Terms:
    tokens = [torch.tensor(ids) for ids in group.token_ids]
    with torch.no_grad():
        reference, prefix = learner.model.prompts(group.prompts, role)
        states, reference_states = (
            learner.model.states(group.prompts, part, [tokens], of) for part, of in ((prefix, role), (reference, None))
        )
    ones = torch.ones(len(states))
    return loss_terms(states, reference_states, Tokens(torch.cat(tokens), ones, ones, ones), 0.1, learner.model.head)


# ------------------------------------------------------------------------------------ the forward pass


def test_logprobs_and_kl_are_those_of_separate_passes(learner: Learner, model: Model, tmp_path: Path) -> None:
    example = an_example(model)
    disturb(learner)
    learner.model.save_adapter(SOLVER, tmp_path / "solver")
    with torch.no_grad():
        policy, base = (
            PlainLoop(model, stock_model(model, adapter)).group_logprobs(example)
            for adapter in (tmp_path / "solver", None)
        )
    terms = own_terms(learner, example.group(learner.model))
    logprob = torch.cat(
        [logp.gather(1, torch.tensor(ids)[:, None])[:, 0] for logp, ids in zip(policy, example.token_ids, strict=True)]
    )
    kl = torch.cat([(p.exp() * (p - q)).nan_to_num(0.0).sum(-1) for p, q in zip(policy, base, strict=True)])
    assert terms.logprob == pytest.approx(logprob, abs=1e-4)
    assert terms.kl == pytest.approx(kl, abs=1e-4)
    assert kl.min() > 1e-4  # the disturbance was not too small to tell


@pytest.fixture
def exact() -> Iterator[None]:
    with double_throughout():
        yield


STEPS: dict[str, list[dict]] = {
    "ragged completions": [{}],
    "a group of one": [{"rewards": (0.7,), "texts": ["12"]}],
    "a single token": [{"rewards": (0.7, 0.1), "texts": ["", ""]}],
    "several image sizes": [
        {"size": (120, 64)},
        {"rewards": (0.2, 0.9), "colour": "blue", "texts": TEXTS[:2], "size": (32, 32)},
        {"rewards": (0.4,), "texts": [""], "size": (64, 200)},
    ],
}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("tokens_per_pass", [1, 60, 10_000])
@pytest.mark.parametrize("case", STEPS)
def test_gradients_are_those_of_the_plain_loop(
    case: str,
    tokens_per_pass: int,
    checkpointing: bool,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float64, however the groups of a step are packed, against one stock pass and one backward a rollout."""
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", tokens_per_pass)
    monkeypatch.setitem(losses.POSITIONS_PER_CHUNK, "cpu", 7)
    learner = Learner(model, UpdateParams(gradient_checkpointing=checkpointing), seed=0)
    learner.model._peft.double()
    disturb(learner)
    set_kl_coef(learner, 0.5)
    learner.model.save_adapter(SOLVER, tmp_path / "solver")
    examples = [an_example(model, **settings) for settings in STEPS[case]]
    groups = [example.group(learner.model) for example in examples]
    own = gradient(learner, *groups)

    plain = PlainLoop(model, stock_model(model, tmp_path / "solver", torch.float64))
    for parameter in plain._stock.parameters():
        parameter.data = parameter.data.double()
    advantages = learner.advantages(SOLVER, groups)
    for example, group_advantages in zip(examples, advantages, strict=True):
        plain.backward(example, group_advantages, 0.5, 1 / len(groups))
    assert plain.gradient().keys() == own.keys()
    for name, expected in plain.gradient().items():
        assert expected.abs().max() > 0
        assert (own[name] - expected).norm() <= 1e-6 * expected.norm(), name


def test_metrics_are_those_of_the_plain_loop(learner: Learner, model: Model, tmp_path: Path) -> None:
    disturb(learner)
    set_kl_coef(learner, 0.5)
    learner.model.save_adapter(SOLVER, tmp_path / "solver")
    examples = [an_example(model), an_example(model, (0.2, 0.9), "blue", TEXTS[:2])]
    groups = [example.group(learner.model) for example in examples]
    advantages = learner.advantages(SOLVER, groups)
    row = learner.step(SOLVER, groups)
    plain = PlainLoop(model, stock_model(model, tmp_path / "solver"))
    pairs = zip(examples, advantages, strict=True)
    expected = sum(plain.backward(example, group_advantages, 0.5, 0.5) for example, group_advantages in pairs)
    assert row["loss"] == pytest.approx(expected, abs=1e-5)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in plain.gradient().values()))
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_the_learner_has_the_rules_that_were_asked_for(model: Model) -> None:
    asked = UpdateParams(loss="clip", clip_low=0.1, clip_high=0.4, clip_dual=2.5)
    learner = Learner(model, asked, 0, temperatures={SOLVER: 0.7, PROPOSER: 1.3})
    assert learner._rules[SOLVER].bounds == (0.1, 0.4, 2.5)
    assert (learner.temperature(SOLVER), learner.temperature(PROPOSER)) == (0.7, 1.3)


def test_the_teacher_stands_still_while_the_proposer_learns(model: Model) -> None:
    learner = Learner(model, UpdateParams(lr=1e-2, teacher_decay=0.5), 0)
    for parameter in learner.model.parameters(SOLVER).values():
        parameter.data += 1
    prompt = learner.model.process((), "Ask.", Pixels())
    assert learner.teacher
    before = {name: tensor.clone() for name, tensor in learner.teacher.items()}
    learner.step(PROPOSER, [TrainingGroup([prompt], [[5, 6]], [[-1.0, -1.0]], [1.0])])
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.teacher.items())


def expected_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v of each head, keys copied for the queries that share them; [B, L, heads, d]."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("case", ["causal", "one mask", "a mask a row"])
def test_attention_is_that_of_the_formula(case: str) -> None:
    """Values and gradients, of grouped queries; under a mask no head of keys is broadcast (pytorch/pytorch#191937)."""
    torch.manual_seed(0)
    batch, length, keys = 3, 5, 5 if case == "causal" else 9
    q = torch.randn(batch, 6, length, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(batch, 2, keys, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    visible = torch.ones(batch, 1, length, keys, dtype=torch.bool).tril(keys - length)
    if case == "a mask a row":
        visible[1, :, :, :3] = False
    elif case == "one mask":
        visible = visible[:1].expand(batch, -1, -1, -1)
    own, _ = attention.attention(None, q, k, v, None if case == "causal" else visible)
    expected = expected_attention(q, k, v, visible)
    assert torch.allclose(own, expected, atol=1e-12)
    gradients = [torch.autograd.grad(out.square().sum(), [q, k, v]) for out in (own, expected)]
    assert all(torch.allclose(one, other, atol=1e-10) for one, other in zip(*gradients, strict=True))


def test_no_key_is_broadcast_under_a_mask_nor_copied_without_one(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, kernel = [], attention.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
        calls.append((settings.get("attn_mask") is not None, k.stride(1) == 0 or v.stride(1) == 0, k.shape[1]))
        return kernel(q, k, v, **settings)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", spy)
    learner.step(SOLVER, [a_group(learner)])
    assert {masked for masked, _, _ in calls} == {True, False}
    assert all(heads == 1 and not broadcast if masked else broadcast for masked, broadcast, heads in calls)


def test_lean_layers_do_what_the_layers_did(model: Model) -> None:
    """Values and gradients of projections, norms and MLPs, against PEFT's through ordinary autograd."""
    policy = PolicyModel(model, seed=0)
    stock = stock_model(model)
    from peft import get_peft_model

    stock = get_peft_model(stock, policy._peft.peft_config[SOLVER])
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in stock.named_parameters():
            if "lora_" in name:
                own = policy.parameters(SOLVER)[name.replace(".default.", ".")]
                own.add_(0.05 * torch.randn_like(own))
                parameter.copy_(own)
    x = torch.randn(2, 3, 64)
    layer, stock_layer = policy._text.layers[0], stock.get_base_model().model.language_model.layers[0]
    gradients = []
    for module, stock_norm, trained in (
        (layer.mlp, layer.post_attention_layernorm, [p for p in layer.mlp.parameters() if p.requires_grad]),
        (stock_layer.mlp, stock_layer.post_attention_layernorm, None),
    ):
        leaf = x.clone().requires_grad_()
        with policy._running.as_role(SOLVER):
            out = module(stock_norm(leaf))
        parameters = [p for name, p in module.named_parameters() if "lora_" in name and "proposer" not in name]
        gradients.append([out, *torch.autograd.grad(out.square().sum(), [leaf, *parameters])])
        assert trained is None or len(parameters) == 6
    for own, expected in zip(*gradients, strict=True):
        assert own.detach() == pytest.approx(expected.detach(), rel=1e-4, abs=1e-5)


def test_what_is_made_again_is_not_kept() -> None:
    """Of a step that is made again, and of a projection of it, backward keeps the step's input alone."""
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    made = again.remade(torch.tanh, x)
    recipe, inputs = again.kept(made.reshape(2, 2, 8))
    assert recipe is not None and inputs == (x,)
    assert again.kept(made[:2])[0] is None and again.kept(made.T)[0] is None
    assert torch.equal(recipe.again(inputs), made)
    [found] = torch.autograd.grad((made**2).sum(), x)
    assert found == pytest.approx(2 * torch.tanh(x).detach() * (1 - torch.tanh(x).detach() ** 2), abs=1e-12)


class Counting(TorchDispatchMode):
    """How many operations are started that compute or copy; views are free."""

    VIEWS = (
        *("view", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "select", "detach", "alias", "permute"),
        *("split", "split_with_sizes", "_unsafe_view", "as_strided", "unbind", "lift_fresh"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ not in self.VIEWS
        return function(*arguments, **(named or {}))


def test_a_layer_starts_few_operations(tmp_path: Path) -> None:
    """A GPU takes as long to start what a step is made of as to compute it: a budget, of a prompt and one pass of
    completions behind it, of π_ref and π, forward and backward, and the step's own."""
    counts = []
    for layers in (2, 3):
        model = find_model(str(build_tiny_model(tmp_path / str(layers), layers=layers)))
        learner = Learner(model, UpdateParams(), seed=0)
        group = a_group(learner)
        with Counting() as operations:
            gradient(learner, group)
        counts.append(operations.count)
    assert counts[1] - counts[0] <= 490


def test_the_gradient_changes_when_the_image_changes(learner: Learner) -> None:
    disturb(learner)
    red, again, blue = (gradient(learner, a_group(learner, colour=colour)) for colour in ("red", "red", "blue"))
    for name in red:
        assert torch.equal(red[name], again[name])
    largest = max(float((red[name] - blue[name]).abs().max() / red[name].abs().max()) for name in red)
    assert largest > 1e-3


def test_the_vision_tower_runs_once_an_image(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = learner.model._base.model.visual
    seen: list[Any] = []
    forward = tower.forward

    def counts(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        seen.append(kwargs["grid_thw"])
        assert not output.pooler_output.requires_grad
        return output

    monkeypatch.setattr(tower, "forward", counts)
    learner.step(SOLVER, [a_group(learner), a_group(learner, colour="blue")])
    assert sum(len(grid) for grid in seen) == 2


def test_every_text_projection_and_nothing_else_is_trained(learner: Learner) -> None:
    names = set(learner.model.parameters(SOLVER))
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert all(any(f"layers.{layer}." in n and p in n for n in names) for layer in (0, 1) for p in projections)
    assert len(names) == 2 * 2 * len(projections)
    assert not any("visual" in name for name in names)
    assert all(parameter.dtype == torch.float32 for parameter in learner.model.parameters(SOLVER).values())


# ------------------------------------------------------------------------------------- the reference


def test_the_reference_is_the_base_model_whatever_the_adapters_hold(learner: Learner, model: Model) -> None:
    example = an_example(model)
    group = example.group(learner.model)
    tokens = [torch.tensor(ids) for ids in example.token_ids]
    disturb(learner, SOLVER, 0.5)
    disturb(learner, PROPOSER, 0.5)
    with torch.no_grad():
        base = torch.cat(PlainLoop(model, stock_model(model)).group_logprobs(example))
    for role in (SOLVER, PROPOSER):
        reference, _ = learner.model.prompts(group.prompts, role)
        with torch.no_grad():
            logits = learner.model.head.logits(learner.model.states(group.prompts, reference, [tokens], None))
        assert torch.log_softmax(logits, -1).exp() == pytest.approx(base.exp(), abs=1e-5)


def test_kl_is_zero_for_untouched_adapters_and_only_for_those(learner: Learner) -> None:
    group = a_group(learner)
    assert float(own_terms(learner, group).kl.abs().max()) < 1e-6
    disturb(learner)
    assert float(own_terms(learner, group).kl.min()) > 1e-5


def test_the_kl_term_pulls_back_to_the_base_model(learner: Learner) -> None:
    group = a_group(learner, rewards=(0.5, 0.5, 0.5))  # no advantage: the KL term alone
    disturb(learner)
    before = float(own_terms(learner, group).kl.mean())
    set_kl_coef(learner, 1.0)
    for _ in range(5):
        learner.step(SOLVER, [group])
    assert float(own_terms(learner, group).kl.mean()) < 0.9 * before


# --------------------------------------------------------------------------------------------- roles


@pytest.mark.parametrize(("role", "other"), [(SOLVER, PROPOSER), (PROPOSER, SOLVER)])
def test_a_step_moves_its_own_role_and_nothing_else(learner: Learner, model: Model, role: Role, other: Role) -> None:
    base = {
        name: parameter.detach().clone()
        for name, parameter in learner.model._peft.named_parameters()
        if "lora_" not in name
    }
    own, others = snapshot(learner, role), snapshot(learner, other)
    set_kl_coef(learner, 1e-3, Baseline(0.05, 1), role)
    for _ in range(2):  # the first step can move only the halves that are zero
        learner.step(role, [a_group(learner)])
    assert all(not torch.equal(own[name], p) for name, p in learner.model.parameters(role).items())
    assert all(torch.equal(others[name], p) for name, p in learner.model.parameters(other).items())
    now = dict(learner.model._peft.named_parameters())
    assert all(torch.equal(before, now[name]) for name, before in base.items())
    assert learner.roles[role].updates == 2 and learner.roles[other].updates == 0


def test_what_earns_more_than_the_baseline_becomes_likelier(learner: Learner, model: Model) -> None:
    group = a_group(learner, rewards=(1.0, 0.0, 0.0))
    lengths = [len(ids) for ids in group.token_ids]
    before = [float(row.sum()) for row in own_terms(learner, group).logprob.split(lengths)]
    set_kl_coef(learner, 1e-3, Baseline(0.05, 1))  # b = 0.5
    for _ in range(3):
        learner.step(SOLVER, [group])
    after = [float(row.sum()) for row in own_terms(learner, group).logprob.split(lengths)]
    assert after[0] > before[0]


def test_the_end_of_turn_is_learned(learner: Learner, model: Model) -> None:
    group = a_group(learner, rewards=(1.0,), texts=["1"])
    before = float(own_terms(learner, group).logprob[-1])
    set_kl_coef(learner, 1e-3, Baseline(0.0, 1))  # b = 0
    for _ in range(3):
        row = learner.step(SOLVER, [group])
    assert row["tokens"] == len(group.token_ids[0])
    assert float(own_terms(learner, group).logprob[-1]) > before + 0.1


def test_stored_tokens_are_used_as_they_are(learner: Learner, model: Model) -> None:
    """One text, two tokenisations: the loss is of the tokens, not of the text encoded again."""
    ids = model.tokenizer.encode("bar").ids
    letters = [model.tokenizer.encode(letter).ids[0] for letter in "bar"]
    assert ids != letters and model.tokenizer.decode(ids) == model.tokenizer.decode(letters)
    sums = []
    for tokens in (ids, letters):
        group = Example(picture(), "q", [tokens], [[-1.0] * len(tokens)], [1.0]).group(learner.model)
        assert own_terms(learner, group).logprob.shape == (len(tokens),)
        sums.append(float(own_terms(learner, group).logprob.sum()))
    assert abs(sums[0] - sums[1]) > 1e-3


# ------------------------------------------------------------------------------------- loss and step


def test_loss_by_hand() -> None:
    """Two hidden states over a vocabulary of three, one of which cannot be sampled."""
    head = Head(torch.eye(3, dtype=torch.float64), torch.tensor([2]))
    states = torch.log(torch.tensor([[0.2, 0.8, 0.5], [0.5, 0.5, 0.1]], dtype=torch.float64)).requires_grad_()
    reference = torch.log(torch.tensor([[0.4, 0.6, 0.5], [0.5, 0.5, 0.7]], dtype=torch.float64))
    sampled = torch.log(torch.tensor([0.4, 0.1], dtype=torch.float64))  # ŵ = 1/2, then 5 cut off at 2
    tokens = Tokens(torch.tensor([0, 1]), sampled, torch.tensor([0.5, -1.0]), torch.tensor([0.25, 0.75]))
    terms = loss_terms(states, reference, tokens, 0.1, head)
    kl = 0.2 * math.log(0.2 / 0.4) + 0.8 * math.log(0.8 / 0.6)
    expected = 0.25 * (-0.5 * 0.5 * math.log(0.2) + 0.1 * kl) + 0.75 * (1.0 * 2 * math.log(0.5))
    assert float(terms.loss) == pytest.approx(expected)
    assert terms.kl.tolist() == pytest.approx([kl, 0.0])
    assert float(terms.kl_mean) == pytest.approx(0.25 * kl)
    assert float(terms.weight_mean) == pytest.approx(0.25 * 0.5 + 0.75 * 2)


@pytest.mark.parametrize("positions", [1, 3, 100])
def test_the_gradient_of_the_loss_is_autograds(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vocabulary, forbidden = 11, [3, 7]
    monkeypatch.setitem(losses.POSITIONS_PER_CHUNK, "cpu", positions)
    head = Head(torch.randn(vocabulary, 4, dtype=torch.float64), torch.tensor(forbidden))
    states = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(8, 4, dtype=torch.float64)
    advantages, shares = torch.randn(2, 8, dtype=torch.float64)
    tokens = Tokens(torch.tensor([0, 1, 2, 4, 5, 6, 8, 9]), torch.full((8,), -2.0), advantages, shares)
    terms = loss_terms(states, reference, tokens, 0.3, head)
    allowed = [token for token in range(vocabulary) if token not in forbidden]
    p, q = (torch.log_softmax((x @ head.weight.T)[:, allowed], -1) for x in (states, reference))
    logprob = p.gather(1, torch.arange(8).clamp(max=8)[:, None])[:, 0]
    weight = torch.exp(logprob.detach() + 2.0).clamp(max=2)
    loss = (shares * (-advantages * weight * logprob + 0.3 * (p.exp() * (p - q)).sum(-1))).sum()
    [expected] = torch.autograd.grad(loss, states)
    assert float(terms.loss) == pytest.approx(float(loss.detach()))
    assert terms.gradient == pytest.approx(expected, abs=1e-12)


def test_a_step_by_hand(learner: Learner, model: Model) -> None:
    """AdamW, clipping and the mean over groups, computed from the gradients of the groups alone."""
    disturb(learner)
    groups = [a_group(learner), a_group(learner, (0.2, 0.9), "blue", TEXTS[:2])]
    set_kl_coef(learner, 0.5, Baseline(0.05, 1))  # b = 0.5 for both, β = 0.5
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
    group = a_group(learner)
    lengths = [len(ids) for ids in group.token_ids]
    logprobs = [row.tolist() for row in own_terms(learner, group).logprob.split(lengths)]
    on_policy = TrainingGroup(group.prompts, group.token_ids, logprobs, group.rewards)
    assert learner.step(SOLVER, [on_policy])["importance_weight"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("rewards", "texts"),
    [((0.0, 0.0, 0.0), TEXTS), ((0.0,), [""]), ((1.0, 1.0), ["", ""]), ((0.0,), ["1"])],
    ids=["nothing parsed", "empty completion", "empty completions", "group of one"],
)
def test_poor_groups_are_learned_from_without_nan(
    learner: Learner, model: Model, rewards: Sequence[float], texts: Sequence[str]
) -> None:
    row = learner.step(SOLVER, [a_group(learner, rewards, texts=texts)])
    assert all(math.isfinite(row[name]) for name in ("loss", "kl", "grad_norm", "importance_weight"))
    assert all(p.isfinite().all() for p in learner.model.parameters(SOLVER).values())
    assert learner.roles[SOLVER].updates == 1


def test_a_gradient_that_is_not_finite_changes_nothing(learner: Learner, model: Model) -> None:
    group = a_group(learner, rewards=(math.inf, 0.0, 0.0))
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
    groups = [a_group(learner, (0.0, 1.0)), a_group(learner, (1.0, 1.0))]
    assert learner.advantages(SOLVER, groups) == [[-0.5, 0.5], [0.5, 0.5]]
    learner.observe(SOLVER, 0.25)
    assert learner.advantages(SOLVER, groups)[1] == pytest.approx([0.75, 0.75])
    own = Learner(model, UpdateParams(advantage="mean"), seed=0)
    own.observe(SOLVER, 0.25)
    own.observe(PROPOSER, 0.25)
    assert own.advantages(SOLVER, groups) == [[-0.5, 0.5], [0.0, 0.0]]
    alone, pair = a_group(learner, (1.0,)), groups[0]  # proposals about the same images are a group of the Proposer's
    assert own.advantages(PROPOSER, [alone, pair]) == [[0.75], [-0.5, 0.5]]


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
    small = policy.process((image,), "q", Pixels(max_pixels=56 * 56, min_pixels=28 * 28))
    large = policy.process((image,), "q", Pixels(min_pixels=112 * 112, max_pixels=112 * 112))
    assert len(large) - len(small) == 16 - 4


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
