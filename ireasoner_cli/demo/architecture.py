"""Build a Qwen2.5-VL model folder of any size from nothing: configuration, tokenizer, processor, weights."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.models.loading import prepare_transformers

prepare_transformers()

import torch  # noqa: E402
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX  # noqa: E402

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Tags are one token each but, unlike the special ones, part of the text that decoding gives back.
TAGS = tuple(f"<{slash}{name}>" for name in ("think", "answer", "question", "rationale") for slash in ("", "/"))

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url', 'image_pil') or 'image' in part or 'image_url' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' or 'video' in part -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""


@dataclass(frozen=True)
class Sizes:
    """How large the model is; widths are multiples of 32 a head."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    vision_hidden: int = 96
    vision_layers: int = 3
    vision_heads: int = 3
    vision_intermediate: int = 256
    pixels: int = 112 * 112  # every image is brought to about this many
    init: float = 0.05  # standard deviation of fresh weights; the usual 0.02 is for much wider layers


def build_tokenizer(texts: Iterable[str], vocabulary: int = 512) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer with Qwen's splitting and special tokens, its merges learned from the texts.

    `vocabulary` counts everything, the 256 bytes and the special tokens included; it may come out smaller.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS) - len(TAGS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bpe = json.loads(tokenizer.to_str())["model"]
    finished = Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=2048,
    )
    finished.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    finished.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    finished.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    finished.chat_template = CHAT_TEMPLATE
    return finished


def build_processor(tokenizer: Qwen2Tokenizer, sizes: Sizes) -> Qwen2_5_VLProcessor:
    """The processor: images of `sizes.pixels`, normalised so that white paper is exactly zero.

    Zero patches embed to zero, so what remains of a chart is its ink; with the usual mean the paper drowns
    the colours of the bars.
    """
    shared: dict[str, Any] = {
        "size": {"shortest_edge": sizes.pixels, "longest_edge": sizes.pixels},
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [0.5, 0.5, 0.5],
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: Qwen2Tokenizer, sizes: Sizes) -> Qwen2_5_VLConfig:
    """The configuration of a Qwen2.5-VL with tied embeddings."""
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    head = sizes.hidden // sizes.heads
    # Rotary pairs go to time, height and width as in the published models: 2, 3 and 3 eighths.
    sections = [head // 2 - 2 * (3 * head // 16), 3 * head // 16, 3 * head // 16]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": 2048,
        "max_window_layers": sizes.layers,
        "initializer_range": sizes.init,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.vision_hidden,
        "intermediate_size": sizes.vision_intermediate,
        "num_heads": sizes.vision_heads,
        "out_hidden_size": sizes.hidden,
        "fullatt_block_indexes": list(range(sizes.vision_layers)),
        "initializer_range": sizes.init,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(config: Qwen2_5_VLConfig, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A model with fresh random weights, float32."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    text = config.get_text_config()
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    return model


def load_folder(folder: Path) -> tuple[Qwen2_5_VLProcessor, Qwen2_5_VLForConditionalGeneration]:
    """What `save_folder` wrote, float32."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return Qwen2_5_VLProcessor.from_pretrained(folder), model


def save_folder(
    folder: Path,
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    prompts: Path | None = None,
) -> None:
    """Write everything that loading needs and, where given, the folder of the model's own prompts."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if prompts is not None:
        shutil.copytree(prompts, folder / "prompts", dirs_exist_ok=True)
