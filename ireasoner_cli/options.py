"""The options that several commands share, each declared once."""

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ireasoner_cli import config

if TYPE_CHECKING:
    from stages.sampling.rows import SamplingSettings
    from stages.shards import Part

# Every option also has its IREASONER_<COMMAND>_<OPTION> variable; saying so at each would drown the help.
Option = partial(typer.Option, show_envvar=False)

ENGINE_PANEL = "Engine"
SAMPLING_PANEL = "Sampling"


class SamplerChoice(StrEnum):
    vllm = "vllm"
    transformers = "transformers"
    fake = "fake"


Inputs = Annotated[list[Path], typer.Argument(help="One file, several, or a directory of part files.")]
Out = Annotated[Path | None, Option(help="A .parquet file, or a directory of parts.", show_default=False)]
PolicyOut = Annotated[Path | None, Option(help="The new policy's directory.", show_default="policy/ beside the input")]
Model = Annotated[
    str | None,
    Option(help="Hugging Face directory or hub id.", show_default="what the input or the policy records"),
]
FirstModel = Annotated[
    str | None,
    Option(
        help="Hugging Face directory or hub id.",
        show_default="the policy's, or Qwen/Qwen2.5-VL-7B-Instruct",
    ),
]
Policy = Annotated[
    Path | None,
    Option(help="Adapters and training state.", show_default="the base model, at step 0"),
]
Seed = Annotated[int, Option(min=0, max=2**63 - 1, help="The run's seed.")]
Limit = Annotated[int | None, Option(min=1, help="Only the first so many groups.", show_default=False)]
LimitRows = Annotated[int | None, Option(min=1, help="Only the first so many questions.", show_default=False)]
Force = Annotated[bool, Option("--force", help="Replace an output that was made differently.")]
DryRun = Annotated[
    bool,
    Option("--dry-run", help="Only say what would be read, taken up and written. The model is looked at, not loaded."),
]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks and the engines' own logs.")]
Config = Annotated[
    Path | None,
    Option(
        callback=config.apply,
        is_eager=True,
        help="Settings file.",
        show_default="ireasoner.toml, if there is one",
    ),
]


def check_finite(given: Mapping[str, object]) -> None:
    """Raises typer.BadParameter for an option that is a number, but no finite one."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is not a finite number", param_hint=f"--{name.replace('_', '-')}")


def parse_part(text: str) -> "Part":
    """`I/N`, 1 ≤ I ≤ N."""
    from stages.shards import Part

    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 1 to N, such as 1/4")
    return Part(int(match[1]), int(match[2]))


Shard = Annotated[
    str | None,
    Option(metavar="I/N", help="Do the I-th of N blocks, and write part-I-of-N.parquet.", show_default=False),
]
Prompt = Annotated[
    Path | None,
    Option(
        help="A file with the prompt.", show_default="the model folder's, or our own", rich_help_panel=SAMPLING_PANEL
    ),
]
Temperature = Annotated[float, Option(min=0.0, max=2.0, help="0 is greedy.", rich_help_panel=SAMPLING_PANEL)]
TopP = Annotated[float, Option(min=0.001, max=1.0, help="Nucleus of the distribution.", rich_help_panel=SAMPLING_PANEL)]
MaxTokens = Annotated[int, Option(min=1, help="New tokens at most.", rich_help_panel=SAMPLING_PANEL)]
MinPixels = Annotated[
    int | None,
    Option(min=1, help="Smaller images are enlarged.", show_default="the processor's", rich_help_panel=SAMPLING_PANEL),
]
MaxPixels = Annotated[
    int | None,
    Option(min=1, help="Larger images are reduced.", show_default="the processor's", rich_help_panel=SAMPLING_PANEL),
]
Sampler = Annotated[
    SamplerChoice | None,
    Option(
        help="Sampling engine.", show_default="vllm where installed, else transformers", rich_help_panel=ENGINE_PANEL
    ),
]
TensorParallel = Annotated[int, Option(min=1, help="GPUs for one engine.", rich_help_panel=ENGINE_PANEL)]
GpuMemory = Annotated[
    float | None,
    Option(
        min=0.05, max=1.0, help="Share of the GPU's memory to use.", show_default="vLLM's", rich_help_panel=ENGINE_PANEL
    ),
]
MaxModelLen = Annotated[
    int | None,
    Option(
        min=1,
        help="Prompt and completion at most, in tokens.",
        show_default="the model's",
        rich_help_panel=ENGINE_PANEL,
    ),
]
BatchInvariant = Annotated[
    bool,
    Option(
        "--batch-invariant",
        help="vLLM's kernels whose results do not depend on what else is in the batch, so that sharded and resumed "
        "runs on a GPU give the same rows. Slower: fixed reduction orders, no split attention, no fused all-reduce.",
        rich_help_panel=ENGINE_PANEL,
    ),
]


def sampling(
    max_tokens: int,
    temperature: float,
    top_p: float,
    prompt: Path | None,
    sampler: SamplerChoice | None,
    min_pixels: int | None,
    max_pixels: int | None,
    tensor_parallel: int,
    gpu_memory_utilization: float | None,
    max_model_len: int | None,
    batch_invariant: bool,
    debug: bool,
) -> "SamplingSettings":
    """The sampling options as the stages take them."""
    from stages.sampling import EngineOptions, Pixels
    from stages.sampling.rows import SamplingSettings

    return SamplingSettings(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        prompt=prompt,
        sampler=sampler.value if sampler else None,
        pixels=Pixels(min_pixels, max_pixels),
        engine=EngineOptions(tensor_parallel, gpu_memory_utilization, max_model_len, debug, batch_invariant),
    )
