"""Rollouts written by hand, for timing what reads them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from stages.contract import TRAJECTORY

COLOURS = ("red", "blue", "green", "orange", "purple", "grey")
TABLE, TABLE_FILE = "embed_tokens.weight", "embeddings.safetensors"
WIDTH, VOCABULARY = 3584, 152064  # of Qwen2.5-VL-7B's embedding table


def write_embeddings(folder: Path, vocabulary: int = VOCABULARY, width: int = WIDTH) -> None:
    """Gives the model in `folder` an embedding table of this size, random bfloat16, in a file of its own."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if not name.endswith(TABLE)}, folder / "model.safetensors")
    header = {
        f"model.language_model.{TABLE}": {
            "dtype": "BF16",
            "shape": [vocabulary, width],
            "data_offsets": [0, 2 * vocabulary * width],
        }
    }
    rng = np.random.default_rng(0)
    block = (rng.standard_normal((1024, width), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    encoded = json.dumps(header).encode()
    with (folder / TABLE_FILE).open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for start in range(0, vocabulary, len(block)):
            file.write(block[: vocabulary - start].tobytes())


def completion(rng: random.Random) -> str:
    """Four steps and an answer, about 60 tokens."""
    first, second = rng.sample(COLOURS, 2)
    a, b = rng.randrange(1, 100), rng.randrange(1, 100)
    steps = (
        f"The {first} bar reaches {a} on the vertical axis.",
        f"The {second} bar next to it reaches {b}.",
        f"Both belong to the group labelled {rng.randrange(1990, 2030)}.",
        f"The two together make {a} + {b} = {a + b}.",
    )
    lines = "\n".join(f"Step {place}: {step}" for place, step in enumerate(steps, 1))
    return f"<think>\n{lines}\n</think>\n<answer>{a + b if rng.random() < 0.4 else 100}</answer>"


def write_rollouts(path: Path, model: str, groups: int, samples: int = 5) -> Path:
    """A rollouts shard of `groups` groups of `samples`, as `rollout` writes it but for the pictures."""
    content = {"format": 2, "stage": "rollout", "model": {"name": model}, "policy": {"step": 0}}
    schema = TRAJECTORY.with_metadata({"ireasoner": json.dumps(content)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, groups, 2000):
            rows = [row for index in range(first, min(groups, first + 2000)) for row in _group(index, samples)]
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return path


def _group(index: int, samples: int) -> Iterator[dict]:
    rng = random.Random(index)
    shared = {
        "group_id": f"{index:016x}",
        "group_index": index,
        "images": [{"bytes": None, "path": f"pool/{index}.png"}],
        "images_sha256": [f"{index:064x}"],
        "question": "What do the two bars make together?",
    }
    for place in range(-1, samples):
        text = completion(rng) if place >= 0 else "<question>What do the two bars make together?</question>"
        tokens = [rng.randrange(300) for _ in range(60)]
        yield {
            **shared,
            "role": "solver" if place >= 0 else "proposer",
            "sample_index": max(place, 0),
            "prompt": "Answer.",
            "completion": text,
            "token_ids": tokens,
            "logprobs": [-1.0] * 60,
            "finish_reason": "stop",
            "seed": place + 1,
            "reject_reason": None,
        }
