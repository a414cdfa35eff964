"""Which engine, and opening it."""

import importlib.util

from stages.errors import UsageError
from stages.parameters.sampling import SamplerName
from stages.sampling.interface import Sampler, Wanted


def resolve_sampler(name: SamplerName | None) -> SamplerName:
    """The engine to use: the one asked for, otherwise vLLM where it is installed, otherwise transformers."""
    installed = importlib.util.find_spec("vllm") is not None
    if name == "vllm" and not installed:
        raise UsageError("vLLM is not installed: pip install 'ireasoner[gpu]' (or [cpu]), or --sampler transformers")
    return name or ("vllm" if installed else "transformers")


def open_sampler(wanted: Wanted, debug: bool = False) -> Sampler:
    """Loads the engine; with `debug` it shows its own logs. The caller closes it.

    Raises EngineError when model, adapter or device will not do.
    """
    if wanted.options.batch_invariant and wanted.name != "vllm":
        raise UsageError(f"--batch-invariant is a mode of vLLM, and the sampler is {wanted.name}")
    if wanted.name == "fake":
        from stages.sampling.fake import FakeSampler

        return FakeSampler(wanted)
    if wanted.name == "transformers":
        from stages.sampling.transformers import TransformersSampler

        return TransformersSampler(wanted)
    from stages.sampling.vllm import VllmSampler

    return VllmSampler(wanted, debug=debug)
