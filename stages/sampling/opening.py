"""Which engine, and opening it."""

from pathlib import Path

from stages.errors import EngineError, UsageError
from stages.models import support
from stages.models.finding import Model
from stages.models.vllm_classes import installed_vllm
from stages.parameters.sampling import SamplerName
from stages.sampling.interface import Sampler, Wanted


def resolve_sampler(name: SamplerName | None, model: Model, adapter: Path | None) -> SamplerName:
    """The engine to use: the one asked for, otherwise vLLM where it is installed and takes the model, otherwise
    transformers.

    Raises UsageError where vLLM is asked for and not installed, EngineError where it takes no such model, or no adapter
    on it: that is known from the configuration.
    """
    if name == "vllm" and installed_vllm() is None:
        raise UsageError("vLLM is not installed: pip install 'ireasoner[gpu]' (or [cpu]), or --sampler transformers")
    if name in ("fake", "transformers"):
        return name
    if name is None and support.sampling(model):
        return "transformers"
    if reason := support.adapters(model) if adapter else support.sampling(model):
        raise EngineError(f"{model.ref.name}: {reason}")
    return "vllm"


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
