"""Every family is learned from as the plain loop learns: a rollout by itself, a stock pass of it, picture and all."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.contract import SOLVER
from stages.errors import EngineError, UsageError
from stages.learning import model as model_module
from stages.learning.checking import fitting_head
from stages.learning.control import Baseline
from stages.learning.learner import Learner, UpdateParams
from stages.learning.loss import Head
from stages.learning.model import PolicyModel
from stages.learning.packing import TOKENS_PER_PASS
from stages.learning.prefix import Prefixes
from stages.models.finding import Model, find_model
from stages.parameters.sampling import Pixels
from stages.policy import ADAPTER_CONFIG, Lora, RoleState, adapter_rank, check_adapter_config
from tests import families
from tests.plain import Example, PlainLoop, double_throughout, stock_model
from tests.test_learning import disturb, gradient

LENGTHS = (1, 7, 20, 13)
ROUTED = ("qwen3_vl_moe",)  # their routers choose in float32


@pytest.fixture(scope="module", params=families.TRAITS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find_model(str(families.build(family, tmp_path_factory.mktemp("families") / family)))


def an_example(model: Model, seed: int = 0, picture: Image.Image | None = None) -> Example:
    rng = random.Random(seed)
    image = Image.frombytes("RGB", (70, 100), rng.randbytes(70 * 100 * 3))
    allowed = [token for token in range(300) if token not in model.forbidden_tokens]
    token_ids = [rng.choices(allowed, k=length) for length in LENGTHS]
    logprobs = [[-4.0] * length for length in LENGTHS]
    return Example(picture or image, "Answer the question: How many?", token_ids, logprobs, [1.0, 0.0, 0.5, 0.25])


def in_double(model: Any) -> None:
    """Weights, adapters and buffers; experts without kernels that know no float64."""
    model.double()
    base = model.get_base_model()
    if hasattr(base, "set_experts_implementation"):
        base.set_experts_implementation("eager")


def a_learner_in_double(model: Model, checkpointing: bool = False) -> Learner:
    """With the same adapters each time."""
    learner = Learner(model, UpdateParams(gradient_checkpointing=checkpointing), seed=0)
    in_double(learner.model._peft)
    disturb(learner)
    learner.roles[SOLVER] = RoleState(Baseline(), 0.5)
    return learner


@pytest.fixture(scope="module")
def expected(model: Model) -> dict[str, Tensor]:
    """The plain loop's gradient of two examples."""
    learner, examples = a_learner_in_double(model), [an_example(model, seed) for seed in range(2)]
    plain = a_plain_loop(model, learner)
    with double_throughout():
        groups = [example.group(learner.model) for example in examples]
        for example, advantages in zip(examples, learner.advantages(SOLVER, groups), strict=True):
            plain.backward(example, advantages, 0.5, 1 / 2)
    return plain.gradient()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_are_those_of_the_plain_loop(
    family: str, model: Model, expected: dict[str, Tensor], checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, to the last digits: completions in passes of several lengths behind a prompt that is run once."""
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", 30)
    learner = a_learner_in_double(model, checkpointing)
    with double_throughout():
        own = gradient(learner, *(an_example(model, seed).group(learner.model) for seed in range(2)))
    assert expected.keys() == own.keys()
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    assert largest > 1e-3
    apart = max(float((own[name] - expected[name]).abs().max()) for name in own)
    assert apart <= (1e-7 if family in ROUTED else 1e-10) * largest


def a_plain_loop(model: Model, learner: Learner) -> PlainLoop:
    from peft import get_peft_model

    config = learner.model._peft.peft_config[SOLVER]
    stock = get_peft_model(stock_model(model), config)
    in_double(stock)
    for name, parameter in stock.named_parameters():
        if "lora_" in name:
            parameter.data = learner.model.parameters(SOLVER)[name.replace(".default.", ".")].detach().clone()
            parameter.requires_grad_()
    loop = PlainLoop(model, stock)
    loop._builders = learner.model._builders  # which remember in what dtype they process images
    return loop


def test_the_gradient_sees_the_picture(model: Model) -> None:
    learner = Learner(model, UpdateParams(), seed=0)
    disturb(learner)
    pictures = [Image.linear_gradient("L").rotate(angle).resize((90, 80)).convert("RGB") for angle in (0, 90)]
    one, again, other = (
        gradient(learner, an_example(model, picture=picture).group(learner.model))
        for picture in (pictures[0], pictures[0], pictures[1])
    )
    assert all(torch.equal(one[name], again[name]) for name in one)

    def size(gradient: dict[str, Tensor]) -> float:
        return max(float(tensor.abs().max()) for tensor in gradient.values())

    assert size({name: one[name] - other[name] for name in one}) > 1e-3 * size(one)


# ------------------------------------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find_model(str(families.build("qwen2_5_vl", tmp_path_factory.mktemp("families") / "qwen")))


def test_a_model_that_completions_behind_a_prompt_would_get_wrong_is_refused(
    qwen: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As here, where what it remembers of positions is lost: it says what differs, and by how much."""
    run_behind = PolicyModel._run_behind

    def forgetful(self: PolicyModel, *arguments: Any) -> Any:
        self._inner.rope_deltas = None
        return run_behind(self, *arguments)

    monkeypatch.setattr(model_module, "REMEMBERED", ())
    monkeypatch.setattr(PolicyModel, "_run_behind", forgetful)
    with pytest.raises(EngineError, match=r"differ: log π by \S+ nats, KL from π_ref by \S+ nats, the gradient by"):
        PolicyModel(qwen, seed=0)


def test_a_gradient_that_does_not_arrive_is_noticed(qwen: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every probability is right."""
    monkeypatch.setattr(Prefixes, "backward", lambda self, leaves: None)
    with pytest.raises(EngineError, match=r"differ: the gradient by \S+ of its norm, where"):
        PolicyModel(qwen, seed=0)


def test_a_cache_that_autograd_cannot_follow_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = find_model(str(families.build("qwen3_5", tmp_path / "model")))
    from transformers.cache_utils import DynamicCache

    monkeypatch.setattr(model_module, "empty_cache", lambda config: DynamicCache(config=config))
    with pytest.raises(EngineError, match="this model cannot be learned from"):
        PolicyModel(model, seed=0)


def test_logits_that_are_made_otherwise_are_noticed(tmp_path: Path) -> None:
    """The cap is in the model, and not where it is looked for."""
    model = find_model(str(families.build("gemma4", tmp_path / "model")))
    policy = PolicyModel(model, seed=0)
    assert policy.head.cap == 30.0
    states = torch.randn(3, policy.head.weight.shape[1])
    logits = Head(policy.head.weight, policy.head.forbidden[:0], 0.5, 4.0).logits(states)
    found = fitting_head(policy.head, SimpleNamespace(logits_scaling=2.0, final_logit_softcapping=4.0), states, logits)
    assert (found.scale, found.cap) == (0.5, 4.0)
    with pytest.raises(EngineError, match="no product of its last states"):
        fitting_head(policy.head, SimpleNamespace(), states, logits)


def test_what_the_configuration_tells_is_said_before_anything_is_loaded(
    qwen: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "load_base", lambda model: pytest.fail("the weights are loaded"))
    shutil.copytree(qwen.path, tmp_path / "quantised")
    config = json.loads((qwen.path / "config.json").read_text())
    quantised = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (tmp_path / "quantised" / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    with pytest.raises(EngineError, match="quantised weights cannot be learned from"):
        PolicyModel(find_model(str(tmp_path / "quantised")), seed=0)
    with pytest.raises(UsageError, match=r"no projection 'mixer' .*; there are q,k,v,o,gate,up,down"):
        PolicyModel(qwen, seed=0, lora=Lora(targets=("q", "mixer")))


# ------------------------------------------------------------------------------------------- adapters


EXPECTED = {"glm4v": ("q", "k", "v", "o", "gate_up", "down"), "qwen3_vl_moe": ("q", "k", "v", "o")}
CLASSIC = ("q", "k", "v", "o", "gate", "up", "down")


def test_adapters_are_on_the_language_models_projections_and_are_read_back(
    family: str, model: Model, tmp_path: Path
) -> None:
    """By PEFT, from the rule that their configuration has in the place of names; nothing else is in it that a policy's
    may not have."""
    policy = PolicyModel(model, seed=0)
    mixers = ("mixer",) if family == "qwen3_5" else ()
    assert policy.lora.targets == EXPECTED.get(family, CLASSIC + mixers)
    assert not any("vision" in name or "visual" in name for name in policy.parameters(SOLVER))
    policy.save_adapter(SOLVER, tmp_path / SOLVER)
    check_adapter_config(tmp_path / SOLVER / ADAPTER_CONFIG, policy.lora)
    stock = stock_model(model, tmp_path / SOLVER)
    assert {name.replace(".default.", ".") for name, _ in stock.named_parameters() if "lora_" in name} == set(
        policy.parameters(SOLVER)
    )


def test_of_a_model_with_experts_peft_rewrites_nothing_that_a_policy_keeps(tmp_path: Path) -> None:
    model = find_model(str(families.build("glm4v_moe", tmp_path / "model")))
    policy = PolicyModel(model, seed=0)
    assert policy.has_experts and policy.lora.targets == ("q", "k", "v", "o")
    policy.save_adapter(SOLVER, tmp_path / SOLVER)
    check_adapter_config(tmp_path / SOLVER / ADAPTER_CONFIG, policy.lora)
    assert adapter_rank(tmp_path / SOLVER) == 16


# ------------------------------------------------------------------------------------------- pictures


def test_prompts_of_several_pictures_and_of_none(qwen: Model) -> None:
    """Behind a prompt without a picture nothing is remembered of the one before."""
    policy = PolicyModel(qwen, seed=0)
    picture = Image.linear_gradient("L").resize((90, 80)).convert("RGB")
    prompts = [policy.process(pictures, "What?", Pixels()) for pictures in ((picture,), (), (picture, picture))]
    tokens = [torch.tensor([5, 6, 7])]
    with torch.no_grad():
        together, _ = policy.prompts(prompts, SOLVER)
        states = policy.states(prompts, together, [tokens] * 3, None).split(3)
        for prompt, own in zip(prompts, states, strict=True):
            reference, _ = policy.prompts([prompt], SOLVER)
            alone = policy.states([prompt], reference, [tokens], None)
            assert own == pytest.approx(alone, abs=1e-5)
        stock = stock_model(qwen).model
        ids = torch.cat([prompts[1].tensors["input_ids"], tokens[0][None]], dim=1)
        assert states[1] == pytest.approx(stock(input_ids=ids).last_hidden_state[0, -4:-1], abs=1e-4)
