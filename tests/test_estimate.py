"""Memory from a configuration alone: counted parameters, and a step at a 7B's shapes on a device that holds nothing."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ireasoner_cli.demo import architecture
from stages.models import estimate
from stages.models.estimate import GIB, GroupSize, Held
from stages.policy import Lora
from tests import published
from tests.benchmarks.contenders import Ours
from tests.benchmarks.measure import Figures, memory_meter
from tests.benchmarks.shapes import Shape, build, example


def test_parameters_are_counted_without_weights() -> None:
    """Of the published checkpoints: the sum of the sizes in their files' index, 16.58 and 7.51 billion bytes."""
    assert published.architecture("7B").weights == 16_584_333_312
    assert published.architecture("3B").weights == 7_509_245_952
    assert 0.6e9 < published.architecture("3B").vision < published.architecture("7B").vision < 0.7e9
    assert published.architecture("7B").cache == 2 * 2 * 28 * 4 * 128


def test_adapters_are_counted_by_rank_and_targets() -> None:
    sizes = published.architecture("7B")
    per_rank = 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert sizes.adapter() == 16 * per_rank  # none in the vision tower, whose layers have the same names
    assert sizes.adapter(Lora(rank=64)) == 4 * sizes.adapter()
    assert sizes.adapter(Lora(targets=("q", "v"))) == 16 * 28 * (3584 + 3584 + 3584 + 512)


def test_a_step_takes_more_with_everything_but_checkpointing() -> None:
    sizes, base = published.architecture("7B"), GroupSize()
    total = estimate.learning(sizes, base).total
    for more in (GroupSize(prompt=4300), GroupSize(samples=5, completion=2000)):
        assert estimate.learning(sizes, more).total > total
    assert estimate.learning(sizes, base, Lora(rank=64)).total > total
    assert estimate.learning(sizes, base, checkpointing=True).total < total
    twenty, forty = (estimate.learning(sizes, GroupSize(samples=samples)).total for samples in (20, 40))
    assert total < twenty == forty  # completions run a few at a time


# Of a step of Qwen2.5-VL as a tracker of every allocation counted them on tensors without memory, the learner's own
# code over the published shapes: prompt, whether checkpointed, GiB in all.
COUNTED = [
    ("7B", 1300, False, 24.0), ("7B", 1300, True, 17.8), ("7B", 4300, False, 32.9), ("7B", 16660, False, 69.6),
    ("7B", 16660, True, 26.8), ("3B", 1300, False, 13.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "prompt", "checkpointing", "counted"), COUNTED)
def test_the_estimate_is_what_a_tracker_counted(name: str, prompt: int, checkpointing: bool, counted: float) -> None:
    found = estimate.learning(published.architecture(name), GroupSize(prompt), checkpointing=checkpointing)
    assert found.total / GIB == pytest.approx(counted, rel=0.1)


CHECKPOINTED = {"checkpointing": True}
TOLD: list[tuple[str, int, dict[str, Any]]] = [
    ("3B", 1024, {}), ("7B", 1024, {}), ("7B", 1024, CHECKPOINTED), ("7B", 16000, {}),
    ("7B", 1024, {"held": Held(in_4bit=True)}), ("32B", 1024, CHECKPOINTED),
    ("72B", 1024, {**CHECKPOINTED, "held": Held(8)}),
]  # fmt: skip


def test_the_page_on_models_has_the_estimates_of_today() -> None:
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    rows = [line.split("|")[2:-1] for line in page.partition("| adapters and moments |")[2].splitlines()[2:9]]
    for cells, (name, picture, more) in zip(rows, TOLD, strict=True):
        told = estimate.learning(published.architecture(name), GroupSize(picture + 276), **more)
        parts = (told.weights, told.adapters, told.total - told.weights - told.adapters, told.total)
        assert [float(cell) for cell in cells] == [round(part / GIB, 1) for part in parts], (name, picture)


def test_learning_stays_within_its_budget() -> None:
    """One card of 32 GB holds 7B's learning, one of 24 GB 3B's; of a 7B's at most 10 GiB are not weights."""
    seven, three = (estimate.learning(published.architecture(name), GroupSize()) for name in ("7B", "3B"))
    assert seven.total < 32e9 and three.total < 24e9
    assert seven.total - seven.weights < 10 * GIB


SHAPE = Shape(
    architecture.Sizes(
        hidden=256, layers=6, heads=4, kv_heads=2, intermediate=1024, vision_hidden=64, vision_layers=1,
        vision_heads=2, vision_intermediate=128, pixels=448 * 448, init=0.02,
    ),
    448, 300, completion_tokens=64, vocabulary=4096,
)  # fmt: skip


def test_a_step_of_the_learner_takes_what_is_estimated(tmp_path: Path) -> None:
    """Every allocation of a real step on this machine, counted by torch's own profiler: above weights and moments."""
    model = build(SHAPE, tmp_path / "model")
    group = example(SHAPE, model)
    ours, figures = Ours(model, group), Figures()
    ours.step(nullcontext())  # after which there are moments
    ours.step(memory_meter(figures))
    sizes = estimate.architecture(model.path)
    asked = GroupSize(ours.prompt_tokens, SHAPE.samples, SHAPE.completion_tokens)
    told = estimate.learning(sizes, asked, device="cpu")
    gradient = estimate.TRAINED * sizes.adapter()
    expected = told.total - told.weights - told.adapters + gradient
    assert figures.peak == pytest.approx(expected, rel=0.15), (figures.peak / 2**20, str(told))


def test_a_base_in_shards_or_in_4_bits_takes_less() -> None:
    """7B in 4 bits on a card of 24 GB; 72B on 80 GB, of which a process of eight has an eighth of the layers, what is
    in no layer, and for a while two layers."""
    seven, most = published.architecture("7B"), published.architecture("72B")
    packed = estimate.learning(seven, GroupSize(), held=Held(in_4bit=True))
    assert packed.total < 24e9 - 2 * GIB and packed.weights < 0.5 * seven.weights
    assert most.weights == pytest.approx(146.8e9, rel=1e-3)
    layer, rest = 2 * most.matrices / 80, most.weights - 2 * most.matrices
    in_shards = estimate.learning(most, GroupSize(), checkpointing=True, held=Held(8))
    assert in_shards.weights == pytest.approx(2 * most.matrices / 8 + rest + 2 * layer, rel=1e-6)
    assert in_shards.total < 40 * GIB
    assert estimate.learning(most, GroupSize(), held=Held(1)) == estimate.learning(most, GroupSize())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_longest_prompt_is_the_longest(checkpointing: bool) -> None:
    sizes, group = published.architecture("7B"), GroupSize()
    longest = estimate.longest_prompt(sizes, 40 * GIB, group, checkpointing=checkpointing)

    def total(prompt: int) -> int:
        return estimate.learning(sizes, dataclasses.replace(group, prompt=prompt), checkpointing=checkpointing).total

    assert total(longest) <= 40 * GIB < total(longest + 1)
    assert estimate.longest_prompt(sizes, sizes.weights, group) == 0


def test_an_engine_has_the_rest_for_its_cache() -> None:
    sizes = published.architecture("7B")
    engine = estimate.sampling(sizes, 0.92 * 80 * GIB)
    assert engine.total == int(0.92 * 80 * GIB)
    assert estimate.cached_tokens(sizes, engine) == engine.cache // sizes.cache
    assert estimate.cached_tokens(sizes, estimate.sampling(sizes, 0.92 * 16 * GIB)) == 0
    two = estimate.sampling(sizes, 0.92 * 16 * GIB, gpus=2)
    assert two.weights == sizes.weights // 2 and estimate.cached_tokens(sizes, two, 2) > 0
