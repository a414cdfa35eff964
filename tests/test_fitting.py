"""What will not work is said before an engine is started."""

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stages.errors import EngineError
from stages.models.estimate import GroupSize, Held
from stages.models.finding import find_model
from stages.models.fitting import (
    GPU_MEMORY_UTILIZATION,
    check_build,
    check_fit,
    check_room,
    check_weights,
    missing_weights,
    step_advice,
    weight_bytes,
)
from stages.models.loading import prepare_transformers
from stages.parameters.sampling import EngineOptions
from stages.policy import DEFAULT_LORA
from stages.sampling import Wanted, open_sampler
from tests.conftest import needs_vllm
from tests.llava import build_tiny_llava


def test_a_model_larger_than_the_gpus_memory_names_the_options_to_change(model_dir: Path) -> None:
    model = find_model(str(model_dir))
    file_bytes = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    in_bfloat16 = file_bytes // 2  # the file holds float32, and a header
    check_fit(model, 2 * in_bfloat16, EngineOptions())
    with pytest.raises(EngineError, match=r"--tensor-parallel.*--gpu-memory-utilization \(now 0.92\)"):
        check_fit(model, in_bfloat16, EngineOptions())
    check_fit(model, in_bfloat16, EngineOptions(tensor_parallel=2))
    with pytest.raises(EngineError, match="each of 2 GPUs"):
        check_fit(model, in_bfloat16, EngineOptions(tensor_parallel=2, gpu_memory_utilization=0.3))


def test_a_model_that_leaves_the_learner_no_room(model_dir: Path) -> None:
    model = find_model(str(model_dir))
    weights = weight_bytes(model)
    check_room(model, weights + 1)
    with pytest.raises(EngineError, match=r"--load-in-4bit, or --shard-base under torchrun.*smaller --model"):
        check_room(model, weights)
    prepare_transformers()
    packed = Held(in_4bit=True)
    check_room(model, weights - 1, packed)
    with pytest.raises(EngineError, match="Stop what else runs there, use a larger GPU"):
        check_room(model, weights // 4, packed)


MLP = tuple(f"layers.1.mlp.{part}_proj" for part in ("down", "gate", "up"))


def without(folder: Path, copy: Path, *parts: str) -> Path:
    """A copy of the model in `folder` without the weights whose names hold one of `parts`."""
    shutil.copytree(folder, copy)
    kept = {
        name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not any(part in name for part in parts)
    }
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_weights_that_are_not_there_are_missed(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those under names of older versions, and those tied to others, are there."""
    prepare_transformers()
    for name, folder in {"qwen": model_dir, "llava": build_tiny_llava(tmp_path / "llava")}.items():
        check_weights(find_model(str(folder)))
        holed = find_model(str(without(folder, tmp_path / f"{name}-holed", *MLP)))
        assert len(missing_weights(holed)) == 3
        with pytest.raises(EngineError, match=r"holed: its files lack .*layers\.1\.mlp\.down_proj.* and 2 more"):
            check_weights(holed)
    assert not caplog.records


@pytest.mark.parametrize("sampler", ["transformers", pytest.param("vllm", marks=needs_vllm)])
def test_a_checkpoint_with_a_hole_is_sampled_from_by_nobody(model_dir: Path, tmp_path: Path, sampler: str) -> None:
    holed = find_model(str(without(model_dir, tmp_path / "holed", "layers.1.mlp.", "visual.merger")))
    with pytest.raises(EngineError, match=r"holed: its files lack"):
        open_sampler(Wanted(sampler, holed))  # type: ignore[arg-type]


def test_weights_that_cannot_be_told_from_the_configuration_are_left_to_the_engine(
    model_dir: Path, tmp_path: Path
) -> None:
    prepare_transformers()
    holed = without(model_dir, tmp_path / "quantised", "layers.1.mlp.")
    config = json.loads((holed / "config.json").read_text())
    (holed / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    check_weights(find_model(str(holed)))
    (holed / "config.json").write_text(json.dumps(config | {"model_type": "unheard-of"}))
    check_weights(find_model(str(holed)))


def test_the_share_assumed_is_vllms_default() -> None:
    pytest.importorskip("vllm")
    from vllm.config import CacheConfig

    assert CacheConfig().gpu_memory_utilization == GPU_MEMORY_UTILIZATION


@pytest.mark.parametrize(
    "vllm,torch,fits",
    [
        ("0.32.0", "2.13.0+cpu", False),
        ("0.32.0", "2.13.0+cu130", True),
        ("0.32.0+cpu", "2.13.0+cpu", True),
        (None, "2.13.0+cpu", True),
    ],
)
def test_a_vllm_for_cuda_beside_a_torch_for_cpus_is_said(
    monkeypatch: pytest.MonkeyPatch, vllm: str | None, torch: str, fits: bool
) -> None:
    def version(name: str) -> str:
        if vllm is None:
            raise metadata.PackageNotFoundError(name)
        return vllm

    monkeypatch.setattr(metadata, "version", version)
    if fits:
        check_build(torch)
        return
    with pytest.raises(EngineError, match=r"built for CUDA.*ireasoner\[cpu\]"):
        check_build(torch)


def test_a_step_that_filled_the_gpu_is_told_by_its_parts(model_dir: Path, tmp_path: Path) -> None:
    prepare_transformers()
    model, group = find_model(str(model_dir)), GroupSize(prompt=16660)
    advice = step_advice(model, group, DEFAULT_LORA, checkpointing=False)
    assert "16,660 + 5 × 256 tokens takes about" in advice and "activations" in advice
    assert "--gradient-checkpointing (" in advice and "--load-in-4bit (" in advice and "--max-pixels" in advice
    assert "--gradient-checkpointing" not in step_advice(model, group, DEFAULT_LORA, checkpointing=True)
    strange = tmp_path / "strange"
    shutil.copytree(model_dir, strange)
    (strange / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    assert "--max-pixels" in step_advice(find_model(str(strange)), group, DEFAULT_LORA, checkpointing=False)
