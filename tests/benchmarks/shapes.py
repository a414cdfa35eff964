"""The models and groups that the learner is raced on."""

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ireasoner_cli.demo import architecture
from stages.models.finding import Model, find_model
from tests.plain import Example

TEXTS = (
    "Look at the image and answer the question below. Write one question about it.",
    "<think>\nStep 1: The red bar is 4.\nStep 2: The blue bar is 7.\n</think>\n<answer>11</answer>",
)


@dataclass(frozen=True)
class Shape:
    """A model and a group on it. pixels: side of the square image, 784 pixels a token."""

    sizes: architecture.Sizes
    pixels: int
    prompt_tokens: int
    samples: int = 5
    completion_tokens: int = 256
    vocabulary: int = 512


SHAPES = {
    # Of 0.1 million parameters, as the tests' own.
    "tiny": Shape(
        architecture.Sizes(
            hidden=64, layers=2, heads=2, kv_heads=1, intermediate=96,
            vision_hidden=32, vision_layers=1, vision_heads=2, vision_intermediate=48, pixels=56 * 56, init=0.2,
        ),
        56, 30, 5, 32, vocabulary=512,
    ),
    # 1,024 image tokens of about 1,300; 27 % of a token's weights are the vocabulary's.
    "paper-like": Shape(
        architecture.Sizes(
            hidden=512, layers=8, heads=8, kv_heads=2, intermediate=1408,
            vision_hidden=256, vision_layers=4, vision_heads=4, vision_intermediate=704, pixels=896 * 896, init=0.02,
        ),
        896, 1300, vocabulary=16384,
    ),
    # Qwen2.5-VL-7B's widths and depths: for a GPU.
    "7b": Shape(
        architecture.Sizes(
            hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18944,
            vision_hidden=1280, vision_layers=32, vision_heads=16, vision_intermediate=3420, pixels=896 * 896,
            init=0.02,
        ),
        896, 1300, vocabulary=152064,
    ),
}  # fmt: skip


def build(shape: Shape, folder: Path) -> Model:
    """A random model of the shape, in the dtype the learner uses."""
    tokenizer = architecture.build_tokenizer(TEXTS, vocabulary=400)
    config = architecture.build_config(tokenizer, shape.sizes)
    config.get_text_config().vocab_size = shape.vocabulary
    config.get_text_config().max_position_embeddings = 8192
    config.vision_config.fullatt_block_indexes = [shape.sizes.vision_layers - 1]
    gpu = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
    try:
        with torch.device("cuda" if gpu else "cpu"):
            model = architecture.build_model(config)
    finally:
        torch.set_default_dtype(torch.float32)
    architecture.save_folder(folder, model, architecture.build_processor(tokenizer, shape.sizes))
    del model
    if gpu:
        torch.cuda.empty_cache()  # for the processes that race on it
    return find_model(str(folder))


def example(shape: Shape, model: Model) -> Example:
    """A group of random tokens and pixels; its prompt is filled up to about the shape's length."""
    rng = random.Random(0)
    noise = bytes(rng.randrange(256) for _ in range(3 * 64 * 64))
    image = Image.frombytes("RGB", (64, 64), noise).resize((shape.pixels, shape.pixels))
    image_tokens = (shape.pixels // 28) ** 2
    words = max(1, shape.prompt_tokens - image_tokens - 12)
    prompt = "".join(rng.choice("abcdefgh") for _ in range(words))
    forbidden = set(model.forbidden_tokens)
    allowed = [token for token in range(min(len(model.embedding_table()), 350)) if token not in forbidden]
    token_ids = [
        [*rng.choices(allowed, k=shape.completion_tokens - 1), model.end_of_turn[0]] for _ in range(shape.samples)
    ]
    logprobs = [[-5.0] * shape.completion_tokens for _ in range(shape.samples)]
    return Example(image, prompt, token_ids, logprobs, [index / shape.samples for index in range(shape.samples)])


def swept() -> dict[str, dict[str, Shape]]:
    """One thing changed at a time, from the paper-like shape."""
    base = SHAPES["paper-like"]
    side = {tokens: 28 * round(tokens**0.5) for tokens in (64, 256, 1024, 2304)}
    return {
        "samples N": {str(n): dataclasses.replace(base, samples=n) for n in (2, 5, 10, 20)},
        "completion tokens": {str(n): dataclasses.replace(base, completion_tokens=n) for n in (64, 128, 256, 512)},
        "image tokens": {
            str((pixels // 28) ** 2): dataclasses.replace(base, pixels=pixels, prompt_tokens=(pixels // 28) ** 2 + 276)
            for pixels in side.values()
        },
    }
