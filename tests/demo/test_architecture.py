"""The built folder loads as a Qwen2.5-VL, its tokenizer loses nothing, and images become 16 tokens."""

import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from ireasoner_cli.demo import architecture, drawing, world


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_folder)


def user_turn(text: str, picture: Image.Image) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def test_the_saved_model_is_the_built_one(tiny_folder: Path, tiny_sizes: architecture.Sizes, processor: Any) -> None:
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_folder)
    built = architecture.build_model(architecture.build_config(processor.tokenizer, tiny_sizes))
    for name, weight in built.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    assert loaded.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (tiny_folder / "prompts" / "solver.txt").read_text().count("{question}") == 1
    assert (tiny_folder / "prompts" / "proposer.txt").exists()


def test_a_chat_turn_with_an_image(tiny_folder: Path, processor: Any) -> None:
    picture = world.render(world.draw_chart(random.Random(0)))
    inputs = processor.apply_chat_template(
        user_turn("Why?", picture),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    pads = "<|image_pad|>" * 16
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == (
        f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert inputs["mm_token_type_ids"].sum() == 16
    logits = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_folder)(**inputs).logits
    assert logits.isfinite().all()


def test_white_paper_is_zero(processor: Any) -> None:
    paper = Image.new("RGB", (drawing.SIZE, drawing.SIZE), "white")
    assert not processor.image_processor(images=[paper], return_tensors="pt")["pixel_values"].any()


def test_any_text_round_trips(processor: Any) -> None:
    @given(st.text())
    def round_trip(text: str) -> None:
        text = unicodedata.normalize("NFC", text)  # as the tokenizer does, like Qwen's
        assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text

    round_trip()


@pytest.mark.parametrize("level", sorted(world.LEVELS))
def test_completions_round_trip_without_special_tokens(processor: Any, level: int) -> None:
    rng = random.Random(level)
    for _ in range(50):
        question = world.draw_question(rng, world.draw_chart(rng, level))
        for text in (question.solution.completion, world.proposal(question)):
            ids = processor.tokenizer(f"{text}<|im_end|>")["input_ids"]
            assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text
            assert ids[-1] == processor.tokenizer.eos_token_id
            assert len(ids) < 100 or level > 1


def test_tags_and_specials_are_single_tokens(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for token in (*architecture.SPECIAL_TOKENS, *architecture.TAGS):
        assert len(tokenizer(token)["input_ids"]) == 1
    assert set(architecture.SPECIAL_TOKENS) == set(tokenizer.all_special_tokens)
