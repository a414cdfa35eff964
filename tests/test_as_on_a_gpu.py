"""What a GPU does otherwise and a CPU can show: weights in bfloat16, sums whose order is left to chance, and a learner
that must leave nothing behind where the engine wakes."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ireasoner_cli.demo import world
from stages.contract import SOLVER
from stages.learning import learner as learning
from stages.learning.learner import Learner, UpdateParams
from stages.learning.model import PolicyModel
from stages.models import device as devices
from stages.models.finding import Model, find_model
from stages.parameters import Call
from stages.parameters.sampling import Decoding
from stages.parameters.score import ScoreParams
from stages.sampling import Request, Sample, Wanted, open_sampler
from stages.score import score
from stages.update import update
from tests import chain
from tests.plain import Example
from tests.test_learning import disturb, gradient, set_kl_coef

DEMO = Path(__file__).parent.parent / "ireasoner_cli" / "demo" / "model"
GROUPS, SAMPLES = 3, 4


@pytest.fixture(scope="module")
def demo() -> Model:
    """It has learned what it says: its probabilities are those of a model, not of noise."""
    return find_model(str(DEMO))


@pytest.fixture(scope="module")
def adapter(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Solver's, away from where it started, but not from sense."""
    learner = Learner(demo, UpdateParams(), seed=0)
    disturb(learner, scale=0.03)
    folder = tmp_path_factory.mktemp("adapter") / "solver"
    learner.model.save_adapter(SOLVER, folder)
    return folder


def in_bfloat16(load: Callable[[], Any]) -> Any:
    """What `load` loads, in the dtype that it has on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices.Device, "dtype", torch.bfloat16)
        return load()


def sampled(model: Model, adapter: Path) -> list[Example]:
    """Answers to a few questions about charts, drawn with the weights in bfloat16."""
    sampler = in_bfloat16(lambda: open_sampler(Wanted("transformers", model, adapter)))
    examples = []
    for index, (chart, question) in enumerate(world.held_out_questions(GROUPS)):
        picture, prompt = world.render(chart), f"{question.text}\nThink in steps, then answer."
        requests = [Request((picture,), prompt, SAMPLES * index + place) for place in range(SAMPLES)]
        requests = [replace(request, images=requests[0].images) for request in requests]  # one prefill
        samples = [each for each in sampler.sample(requests, Decoding(max_tokens=64)) if isinstance(each, Sample)]
        ids, logprobs = [each.token_ids for each in samples], [each.logprobs for each in samples]
        examples.append(Example(picture, prompt, ids, logprobs, [1.0, 0.0, 0.5, 0.2]))
    sampler.close()
    return examples


@pytest.fixture(scope="module")
def examples(demo: Model, adapter: Path) -> list[Example]:
    return sampled(demo, adapter)


def learner_at(model: Model, adapter: Path) -> Learner:
    learner = Learner(model, UpdateParams(), seed=0)
    learner.model.set_adapter(SOLVER, learner.model.read_adapter(SOLVER, adapter))
    set_kl_coef(learner, 0.1)
    return learner


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)]).double()


def test_a_step_in_bfloat16_is_that_in_float32(demo: Model, adapter: Path, examples: list[Example]) -> None:
    """Through image, adapters, both losses and KL: the gradient's direction, its length, and the figures."""
    exact, rounded = learner_at(demo, adapter), in_bfloat16(lambda: learner_at(demo, adapter))
    one, other = (
        flat(gradient(learner, *[example.group(learner.model) for example in examples])) for learner in (exact, rounded)
    )
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > 0.999
    assert float(other.norm() / one.norm()) == pytest.approx(1.0, abs=0.02)
    figures, in_bf16 = (
        learner.step(SOLVER, [example.group(learner.model) for example in examples]) for learner in (exact, rounded)
    )
    assert in_bf16["kl"] == pytest.approx(figures["kl"], rel=0.1) and figures["kl"] > 1e-4


def test_the_importance_weight_is_one_where_sampler_and_learner_round_alike(
    demo: Model, adapter: Path, examples: list[Example]
) -> None:
    learner = in_bfloat16(lambda: learner_at(demo, adapter))
    figures = learner.step(SOLVER, [example.group(learner.model) for example in examples])
    assert figures["importance_weight"] == pytest.approx(1.0, abs=0.01)


def test_an_untouched_adapter_has_no_kl_in_bfloat16(demo: Model, examples: list[Example]) -> None:
    learner = in_bfloat16(lambda: Learner(demo, UpdateParams(), seed=0))
    assert learner.step(SOLVER, [example.group(learner.model) for example in examples])["kl"] == 0.0


def test_hidden_states_in_bfloat16_are_those_in_float32(demo: Model, adapter: Path, examples: list[Example]) -> None:
    def states() -> list[Tensor]:
        model = PolicyModel(demo, seed=0)
        model.set_adapter(SOLVER, model.read_adapter(SOLVER, adapter))
        prompt = model.process((examples[0].image,), examples[0].prompt, examples[0].pixels)
        completions = [torch.tensor(ids) for ids in examples[0].token_ids]
        return [each.float() for each in model.token_states(prompt, completions, SOLVER, model.depth // 2)]

    for one, other in zip(states(), in_bfloat16(states), strict=True):
        assert float(((one - other).norm(dim=-1) / one.norm(dim=-1)).max()) < 3e-2


# ------------------------------------------------------------------------------------------ any order of sums

# Of which torch says that on CUDA they have no deterministic implementation (torch.use_deterministic_algorithms); of
# cumsum only where it adds up fractions.
LEFT_TO_CHANCE = {
    *("put_", "put", "histc", "bincount", "kthvalue", "median", "nanmedian", "cumsum", "_ctc_loss_backward"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "nll_loss2d_forward", "_embedding_bag_dense_backward"),
    *("adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("avg_pool3d_backward", "max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "reflection_pad1d_backward"),
    *("reflection_pad2d_backward", "reflection_pad3d_backward", "replication_pad1d_backward"),
    *("replication_pad2d_backward", "replication_pad3d_backward", "upsample_linear1d_backward"),
    *("upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward"),
}


class Watched(TorchDispatchMode):
    """Notes the operations that torch starts, the backward's among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if name != "cumsum" or arguments[0].is_floating_point():
            self.seen.add(name)
        return operation(*arguments, **(settings or {}))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_operation_of_a_step_adds_up_in_any_order(checkpointing: bool, demo: Model, examples: list[Example]) -> None:
    """As far as torch knows: with `repeatable` it would refuse them on a GPU, where nobody has tried."""
    learner = Learner(demo, UpdateParams(gradient_checkpointing=checkpointing), seed=0)
    groups = [example.group(learner.model) for example in examples]
    with Watched() as watched:
        learner.step(SOLVER, groups)
    assert "mm" in watched.seen and any(name.endswith("_backward") for name in watched.seen)
    assert not watched.seen & LEFT_TO_CHANCE


# ------------------------------------------------------------------------------------------ nothing left


def test_nothing_of_the_learner_outlives_an_update(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the engine wakes up where it lay."""
    texts = [chain.solution(answer) for answer in (4, 4, 5)]
    chain.write_shard(Path("rolled.parquet"), [chain.group(0, "pool/0.png", texts)])
    score([Path("rolled.parquet")], ScoreParams(), Call(out=Path("scored.parquet")))
    left: list[weakref.ref[Any]] = []

    class Remembered(PolicyModel):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            left.extend(map(weakref.ref, (self, self._base, *self._base.parameters())))

    monkeypatch.setattr(learning, "PolicyModel", Remembered)
    update([Path("scored.parquet")], UpdateParams(), Call(out=Path("policy")))
    gc.collect()
    assert len(left) > 10 and not any(each() is not None for each in left)
