"""Every family is learned from as the plain loop learns: a rollout by itself, a stock pass of it, picture and all."""

import random
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.contract import SOLVER
from stages.learning.control import Baseline
from stages.learning.learner import Learner, UpdateParams
from stages.learning.passes import TOKENS_PER_PASS
from stages.models.finding import Model, find_model
from stages.policy import RoleState
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


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_are_those_of_the_plain_loop(
    family: str, model: Model, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, to the last digits: completions in passes of several lengths behind a prompt that is run once."""
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", 30)
    learner = Learner(model, UpdateParams(gradient_checkpointing=checkpointing), seed=0)
    in_double(learner.model._peft)
    disturb(learner)
    learner.roles[SOLVER] = RoleState(Baseline(), 0.5)
    examples = [an_example(model, seed) for seed in range(2)]
    plain = a_plain_loop(model, learner)
    with double_throughout():
        groups = [example.group(learner.model) for example in examples]
        own = gradient(learner, *groups)
        for example, advantages in zip(examples, learner.advantages(SOLVER, groups), strict=True):
            plain.backward(example, advantages, 0.5, 1 / 2)
    expected = plain.gradient()
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
