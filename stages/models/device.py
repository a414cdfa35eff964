"""Where models compute, decided in one place; and what a GPU needs that a CPU does not."""

import ctypes
import gc
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from stages.errors import EngineError, first_line

DRIVER = Path("/proc/driver/nvidia/version")  # there where NVIDIA's driver is loaded
VISIBLE = "CUDA_VISIBLE_DEVICES"  # by its being empty a user says that a CPU is meant


@dataclass(frozen=True)
class Device:
    """What this process computes on. `name` is the GPU's, or "cpu"; the dtype is that of the models."""

    name: str
    gpu: bool

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.gpu else torch.float32

    @property
    def torch_device(self) -> torch.device:
        """With the GPU's number, since the threads that read weights do not have this one's current device, which
        torchrun's processes need. Begins to use the GPU."""
        return torch.device("cuda", torch.cuda.current_device()) if self.gpu else torch.device("cpu")

    def recorded(self, **settings: Any) -> dict[str, Any]:
        """What a file says of it, and of `settings` that can change the last bits of what it computes."""
        return {"name": self.name, "dtype": str(self.dtype).removeprefix("torch."), **settings}


def gpu_is_used() -> bool:
    """Whether learner, samplers and embedding compute on a GPU: where there is one. Does not begin to use it.

    Raises EngineError where there is a GPU, or one is asked for, that cannot be used: on the CPU, in float32, a model
    that was meant for it would take days.
    """
    if torch.cuda.is_available():
        return True
    asked = os.environ.get(VISIBLE)
    if torch.version.cuda is None or asked == "" or not (asked or DRIVER.exists()):
        return False
    reason = "it is not there"
    try:
        torch.cuda.init()
    except Exception as error:
        reason = first_line(error)
    named = f" that {VISIBLE}={asked} names" if asked else ""
    raise EngineError(
        f"the GPU{named} cannot be used ({reason}). torch {torch.__version__} is built for CUDA {torch.version.cuda}; "
        f'CUDA 13 needs driver 580 or later. {VISIBLE}="" has the CPU compute, in float32'
    )


def this_device() -> Device:
    """The device, of which a line on stderr says, once a process, what it is. Raises as `gpu_is_used` does."""
    if not gpu_is_used():
        _say("on the CPU, in float32")
        return Device("cpu", gpu=False)
    number = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    device = Device(_gpu_name(number), gpu=True)
    _say(f"on cuda:{number}, {device.name}, bf16")
    return device


@cache
def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _gpu_name(number: int) -> str:
    name = ctypes.create_string_buffer(256)
    asked = _ask_driver(number, lambda cuda, device: cuda.cuDeviceGetName(name, len(name), device))
    return name.value.decode(errors="replace") if asked else "GPU"


def gpu_bytes() -> int | None:
    """The memory of the first GPU that this process may use; None where it computes on the CPU. Does not begin to use
    it."""
    size = ctypes.c_size_t()
    asked = gpu_is_used() and _ask_driver(0, lambda cuda, device: cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device))
    return size.value if asked else None


def _ask_driver(number: int, question: Callable[[Any, ctypes.c_int], int]) -> bool:
    """Whether the driver has answered: torch would set up a context on the GPU to ask it."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    device = ctypes.c_int()
    return not (cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), number) or question(cuda, device))


def free_memory() -> int | None:
    """Bytes of this process's GPU that nobody has; None where it computes on the CPU. Begins to use the GPU."""
    if not gpu_is_used():
        return None
    free_cache()
    return torch.cuda.mem_get_info(torch.cuda.current_device())[0]


def free_cache() -> None:
    """Gives back what torch keeps of a GPU's memory for models that are gone: to another process, or to one's own
    engine, it is not free."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def allow_repeatable() -> None:
    """To be called before a GPU is first used: what `repeatable` needs is read only then, by cuBLAS.

    Attention is never cuDNN's, which torch 2.13 would choose outside of `repeatable`: its backward is not repeatable,
    and with few heads of keys it has been seen to be wrong (pytorch/pytorch#193893, #196678).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within, a GPU computes the same bits each time, as a CPU does anyway: left to itself, the backward of attention
    adds up in whatever order its threads come. Raises RuntimeError without `allow_repeatable` before."""
    if device.type != "cuda":
        yield
        return
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def memory_bounded(advice: str | Callable[[], str]) -> Iterator[None]:
    """Within, running out of a GPU's memory is an EngineError that ends with `advice`, what helps; a function of it is
    called only then."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        tried = re.search(r"allocate ([\d.]+ [KMG]iB)", str(error))
        needed = f" ({tried[1]} more were asked for)" if tried else ""
        helps = advice if isinstance(advice, str) else advice()
        raise EngineError(f"the GPU's memory is full{needed}; {helps}") from error
