"""What will not work is said before an engine is started."""

from importlib import metadata
from pathlib import Path

import pytest

from stages.errors import EngineError
from stages.models.finding import find_model
from stages.models.fitting import GPU_MEMORY_UTILIZATION, check_build, check_fit, check_room, weight_bytes
from stages.parameters.sampling import EngineOptions


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
    with pytest.raises(EngineError, match="smaller --model"):
        check_room(model, weights)


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
