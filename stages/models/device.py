"""What a GPU needs that a CPU does not."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stages.errors import EngineError


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
def memory_bounded(advice: str) -> Iterator[None]:
    """Within, running out of a GPU's memory is an EngineError that ends with `advice`, what helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        tried = re.search(r"allocate ([\d.]+ [KMG]iB)", str(error))
        needed = f" ({tried[1]} more were asked for)" if tried else ""
        raise EngineError(f"the GPU's memory is full{needed}; {advice}") from error
