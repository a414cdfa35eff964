"""Batches are what the processor would make, and a killed training ends in the same weights."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from ireasoner_cli.demo import architecture, pretrain, world

PHASE = pretrain.Phase(2, world.MIX, pretrain.LEVELS, proposals=0.5, carelessness=0.1)


def draw_examples(count: int) -> list[pretrain.Example]:
    rng = random.Random(0)
    return [pretrain.draw_example(rng, PHASE) for _ in range(count)]


def test_a_batch_is_what_the_processor_makes(tiny_folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_folder)
    examples = draw_examples(4)
    batch = pretrain.Collator(processor)(examples)
    for index, example in enumerate(examples):
        picture = world.render(example.chart)
        content = [{"type": "image", "image": picture}, {"type": "text", "text": example.user}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        length = inputs["input_ids"].shape[1]
        assert torch.equal(batch.ids[index, :length], inputs["input_ids"][0])
        assert torch.equal(batch.pixels.view(4, 64, -1)[index], inputs["pixel_values"])
        assert torch.equal(batch.grid[index], inputs["image_grid_thw"][0])
        learned = batch.targets[index][batch.targets[index] != -100]
        assert processor.tokenizer.decode(learned) == f"{example.completion}<|im_end|>"


def test_stressed_words_count_more(tiny_folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_folder)
    examples = draw_examples(4)
    batch = pretrain.Collator(processor, lambda text: [(text.index("<"), text.index(">"))])(examples)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_folder)
    _, targets = pretrain.logits_and_targets(model, batch)
    plain = pretrain.Collator(processor)(examples)
    counts = (batch.times * (batch.targets != -100)).sum(1).tolist()
    for own, example in zip(targets.split(counts), examples, strict=True):
        once = processor.tokenizer(f"{example.completion}<|im_end|>", return_offsets_mapping=True)
        end = example.completion.index(">")
        wanted = [
            token
            for token, (start, _) in zip(once["input_ids"], once["offset_mapping"], strict=True)
            for _ in range(pretrain.STRESS if start < end else 1)
        ]
        assert own.tolist() == wanted
    assert torch.equal(plain.times, torch.ones_like(plain.times))


def test_logits_are_those_of_a_plain_forward_pass(tiny_folder: Path) -> None:
    batch = pretrain.Collator(AutoProcessor.from_pretrained(tiny_folder))(draw_examples(4))
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_folder)
    logits, _ = pretrain.logits_and_targets(model, batch)
    plain = model(
        input_ids=batch.ids,
        attention_mask=torch.ones_like(batch.ids),
        pixel_values=batch.pixels,
        image_grid_thw=batch.grid,
        mm_token_type_ids=batch.types,
    ).logits
    torch.testing.assert_close(logits, plain[batch.targets != -100], atol=1e-5, rtol=1e-5)


def test_a_killed_training_ends_in_the_same_weights(
    tmp_path: Path, tiny_sizes: architecture.Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = pretrain.Lesson((PHASE, PHASE))
    monkeypatch.setattr(pretrain, "BATCH", 4)
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    pretrain.train(tmp_path / "whole", sizes=tiny_sizes, lesson=lesson)
    learn, calls = pretrain.learn, 0

    def die_in_step_4(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        learn(*arguments)

    monkeypatch.setattr(pretrain, "learn", die_in_step_4)
    with pytest.raises(KeyboardInterrupt):
        pretrain.train(tmp_path / "killed", sizes=tiny_sizes, lesson=lesson)
    monkeypatch.setattr(pretrain, "learn", learn)
    pretrain.train(tmp_path / "killed", sizes=tiny_sizes, lesson=lesson)
    whole, killed = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert sorted(p.name for p in whole.parent.iterdir()) == sorted(p.name for p in killed.parent.iterdir())
