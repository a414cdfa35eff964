"""vLLM starts on a CPU, whatever context the model has; and small models compute with one thread."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from stages.errors import EngineError
from stages.models import threads
from stages.models.finding import Model, find_model
from stages.parameters.sampling import Decoding, EngineOptions
from stages.sampling import Request, Sample, Wanted, open_sampler
from tests.conftest import needs_vllm

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def long_model(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny model with a context as long as that of Qwen2.5-VL-7B, and images of as many tokens."""
    folder = tmp_path_factory.mktemp("models") / "long"
    shutil.copytree(model_dir, folder)
    for name, part, key, value in (
        ("config.json", "text_config", "max_position_embeddings", 128_000),
        ("processor_config.json", "image_processor", "size", {"longest_edge": 12_845_056, "shortest_edge": 3136}),
    ):
        content = json.loads((folder / name).read_text())
        content[part][key] = value
        (folder / name).write_text(json.dumps(content))
    return find_model(str(folder))


def sizes(model: Model, asked: int | None) -> tuple[int, int]:
    """Context and batch of an engine on a CPU, which vLLM has found to go together."""
    from stages.sampling import vllm

    vllm._prepare_environment(EngineOptions(), debug=False)
    vllm._register_model_class(model)
    from vllm.engine.arg_utils import EngineArgs

    settings = {"model": str(model.path), "max_model_len": asked, "enforce_eager": True}
    chosen = vllm._cpu_sizes(settings)
    EngineArgs(**settings | chosen).create_engine_config()
    return chosen["max_model_len"], chosen["max_num_batched_tokens"]


@needs_vllm
def test_context_and_batch_fit_each_other(long_model: Model, model_dir: Path) -> None:
    assert sizes(long_model, None) == (8192, 8192)
    assert sizes(long_model, 100) == (100, 8192)
    assert sizes(long_model, 32_768) == (32_768, 32_768)
    assert sizes(find_model(str(model_dir)), None) == (2048, 8192)


@needs_vllm
def test_a_prompt_as_long_as_was_asked_for_is_read(long_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the context taken unasked, than the usual batch, and than the least cache holds."""
    from stages.sampling import vllm

    monkeypatch.setattr(vllm, "CPU_CACHE", 2**20)
    sampler = open_sampler(Wanted("vllm", long_model, options=EngineOptions(max_model_len=16_384)))
    words = " ".join(["word"] * 2500)  # of five tokens each
    (sample,) = sampler.sample([Request((Image.new("RGB", (64, 48)),), words, 1)], Decoding(max_tokens=3))
    assert isinstance(sample, Sample) and len(sample.token_ids) > 0


@needs_vllm
def test_more_than_the_model_has_cannot_be_asked_for(model_dir: Path) -> None:
    with pytest.raises(EngineError, match=r"vLLM could not start .*max_model_len"):
        open_sampler(Wanted("vllm", find_model(str(model_dir)), options=EngineOptions(max_model_len=4096)))


@pytest.mark.parametrize(
    ("asked", "small", "expected"), [({}, True, 1), ({}, False, 2), ({"OMP_NUM_THREADS": "2"}, True, 2)]
)
def test_a_small_model_computes_with_one_thread(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], small: bool, expected: int
) -> None:
    for name in threads.ASKED:
        monkeypatch.delenv(name, raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    model = find_model(str(model_dir))
    monkeypatch.setattr(threads, "SMALL", threads.weight_bytes(model) + (1 if small else 0))
    # vLLM, which an earlier test may have started in this process, has set_num_threads do nothing.
    counted = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: counted[-1])
    monkeypatch.setattr(torch, "set_num_threads", counted.append)
    threads.fit_threads(model)
    assert counted[-1] == expected


@needs_vllm
def test_whoever_loads_it(model_dir: Path) -> None:
    code = f"""
import torch
from stages.models.finding import find_model
from stages.models.loading import load_base
from stages.sampling import Wanted, open_sampler
model = find_model({str(model_dir)!r})
for load in (lambda: load_base(model), lambda: open_sampler(Wanted("vllm", model))):
    torch.set_num_threads(2)  # as on a machine of two cores
    loaded = load()
    assert torch.get_num_threads() == 1
"""
    environment = {name: value for name, value in os.environ.items() if name not in threads.ASKED}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"PYTHONPATH": str(ROOT)})
