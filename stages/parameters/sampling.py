"""How completions are sampled: for all stages that sample."""

from dataclasses import dataclass
from typing import Literal

from stages.parameters.option import option

SAMPLING = "Sampling"
ENGINE = "Engine"

SamplerName = Literal["vllm", "transformers", "fake"]


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn; temperature 0 is greedy."""

    temperature: float = option(1.0, "0 is greedy.", minimum=0.0, maximum=2.0, panel=SAMPLING)
    top_p: float = option(1.0, "Nucleus of the distribution.", minimum=0.001, maximum=1.0, panel=SAMPLING)
    max_tokens: int = option(256, "New tokens at most.", minimum=1, panel=SAMPLING)


@dataclass(frozen=True)
class Pixels:
    """Bounds on an image's pixels before the vision tower; None leaves the processor's own."""

    min_pixels: int | None = option(
        None, "Smaller images are enlarged.", minimum=1, shown="the processor's", panel=SAMPLING
    )
    max_pixels: int | None = option(
        None, "Larger images are reduced.", minimum=1, shown="the processor's", panel=SAMPLING
    )


@dataclass(frozen=True)
class EngineOptions:
    """Settings of the device, which do not shape the rows; None leaves the engine's own."""

    tensor_parallel: int = option(1, "GPUs for one engine.", minimum=1, panel=ENGINE, recorded=False)
    gpu_memory_utilization: float | None = option(
        None,
        "Share of the GPU's memory to use.",
        minimum=0.05,
        maximum=1.0,
        shown="vLLM's",
        panel=ENGINE,
        recorded=False,
    )
    max_model_len: int | None = option(
        None,
        "Prompt and completion at most, in tokens.",
        minimum=1,
        shown="the model's; on a CPU 8192 at most",
        panel=ENGINE,
        recorded=False,
    )
    batch_invariant: bool = option(
        False,
        "vLLM's kernels whose results do not depend on what else is in the batch, so that sharded and resumed "
        "runs on a GPU give the same rows. Slower: fixed reduction orders, no split attention, no fused all-reduce.",
        panel=ENGINE,
        recorded=False,
    )


@dataclass(frozen=True)
class Sampling:
    """None leaves the choice to the model folder or the machine; a shard records what was chosen."""

    prompt: str | None = option(
        None,
        "A file with the prompt; a text of several lines, as a settings file can have it, is the prompt itself.",
        metavar="FILE",
        shown="the model folder's, or our own",
        panel=SAMPLING,
        recorded=False,
    )
    decoding: Decoding = Decoding()
    pixels: Pixels = Pixels()
    sampler: SamplerName | None = option(
        None,
        "Sampling engine; fake makes text up without loading a model, to try a pool and settings with.",
        shown="vllm where it is installed and takes the model, else transformers",
        panel=ENGINE,
        recorded=False,
    )
    engine: EngineOptions = EngineOptions()
