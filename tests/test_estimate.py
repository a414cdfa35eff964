"""Memory from a configuration alone: counted parameters, and a step at a 7B's shapes on a device that holds nothing."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ireasoner_cli.demo import architecture
from stages.models import estimate
from stages.models.estimate import GIB, Architecture, Group
from stages.models.loading import prepare_transformers
from stages.policy import Lora
from tests.benchmarks.contenders import Ours
from tests.benchmarks.measure import Figures, memory_meter
from tests.benchmarks.shapes import Shape, build, example

VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    "hidden_act": "silu", "tokens_per_second": 2,
}  # fmt: skip
# As Qwen2.5-VL's config.json on the hub have them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "3B": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 128000, "vision_config": VISION | {"out_hidden_size": 2048},
    },
    "7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
        "max_position_embeddings": 128000, "vision_config": VISION | {"out_hidden_size": 3584},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def published() -> dict[str, Architecture]:
    prepare_transformers()
    from transformers import AutoConfig

    return {
        name: estimate.architecture_of(AutoConfig.for_model("qwen2_5_vl", **config))
        for name, config in PUBLISHED.items()
    }


def test_parameters_are_counted_without_weights(published: dict[str, Architecture]) -> None:
    """Of the published checkpoints: the sum of the sizes in their files' index, 16.58 and 7.51 billion bytes."""
    assert published["7B"].weights == 16_584_333_312
    assert published["3B"].weights == 7_509_245_952
    assert 0.6e9 < published["3B"].vision < published["7B"].vision < 0.7e9
    assert published["7B"].cache == 2 * 2 * 28 * 4 * 128


def test_adapters_are_counted_by_rank_and_targets(published: dict[str, Architecture]) -> None:
    sizes = published["7B"]
    per_rank = 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert sizes.adapter() == 16 * per_rank  # none in the vision tower, whose layers have the same names
    assert sizes.adapter(Lora(rank=64)) == 4 * sizes.adapter()
    assert sizes.adapter(Lora(targets=("q", "v"))) == 16 * 28 * (3584 + 3584 + 3584 + 512)


def test_a_step_takes_more_with_everything_but_checkpointing(published: dict[str, Architecture]) -> None:
    sizes, base = published["7B"], Group()
    total = estimate.learning(sizes, base).total
    for more in (Group(prompt=4300), Group(samples=5, completion=1300)):
        assert estimate.learning(sizes, more).total > total
    assert estimate.learning(sizes, base, Lora(rank=64)).total > total
    assert estimate.learning(sizes, base, checkpointing=True).total < total
    assert estimate.learning(sizes, Group(samples=20)).total == total  # completions run a few at a time


# Of a step of Qwen2.5-VL as a tracker of every allocation counted them on tensors without memory, the learner's own
# code over the published shapes: prompt, whether checkpointed, GiB in all.
COUNTED = [
    ("7B", 1300, False, 24.0), ("7B", 1300, True, 17.8), ("7B", 4300, False, 32.9), ("7B", 16660, False, 69.6),
    ("7B", 16660, True, 26.8), ("3B", 1300, False, 13.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "prompt", "checkpointing", "counted"), COUNTED)
def test_the_estimate_is_what_a_tracker_counted(
    published: dict[str, Architecture], name: str, prompt: int, checkpointing: bool, counted: float
) -> None:
    found = estimate.learning(published[name], Group(prompt), checkpointing=checkpointing)
    assert found.total / GIB == pytest.approx(counted, rel=0.1)


def test_learning_stays_within_its_budget(published: dict[str, Architecture]) -> None:
    """One card of 32 GB holds 7B's learning, one of 24 GB 3B's; of a 7B's step at most 9 GiB are not weights."""
    seven, three = (estimate.learning(published[name], Group()) for name in ("7B", "3B"))
    assert seven.total < 32e9 and three.total < 24e9
    assert seven.total - seven.weights < 9 * GIB


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
    asked = Group(ours.prompt_tokens, SHAPE.samples, SHAPE.completion_tokens)
    told = estimate.learning(sizes, asked, device="cpu")
    gradient = estimate.TRAINED * sizes.adapter()
    expected = told.total - told.weights - told.adapters + gradient
    assert figures.peak == pytest.approx(expected, rel=0.15), (figures.peak / 2**20, str(told))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_longest_prompt_is_the_longest(published: dict[str, Architecture], checkpointing: bool) -> None:
    sizes, group = published["7B"], Group()
    longest = estimate.longest_prompt(sizes, 40 * GIB, group, checkpointing=checkpointing)

    def total(prompt: int) -> int:
        return estimate.learning(sizes, dataclasses.replace(group, prompt=prompt), checkpointing=checkpointing).total

    assert total(longest) <= 40 * GIB < total(longest + 1)
    assert estimate.longest_prompt(sizes, sizes.weights, group) == 0


def test_an_engine_has_the_rest_for_its_cache(published: dict[str, Architecture]) -> None:
    sizes = published["7B"]
    engine = estimate.sampling(sizes, 0.92 * 80 * GIB)
    assert engine.total == int(0.92 * 80 * GIB)
    assert estimate.cached_tokens(sizes, engine) == engine.cache // sizes.cache
    assert estimate.cached_tokens(sizes, estimate.sampling(sizes, 0.92 * 16 * GIB)) == 0
    two = estimate.sampling(sizes, 0.92 * 16 * GIB, gpus=2)
    assert two.weights == sizes.weights // 2 and estimate.cached_tokens(sizes, two, 2) > 0
