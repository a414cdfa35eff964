"""A model on this machine: what works with it, whether sampling and learning fit, and with which options."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ireasoner_cli.doctor.finding import Finding, fail, ok, warn
from ireasoner_cli.doctor.machine import Machine
from stages.contract import ModelRef
from stages.errors import EngineError, StageError
from stages.models import estimate
from stages.models.estimate import GIB, Architecture, Group
from stages.models.finding import INDEX_FILE, Model
from stages.models.fitting import GPU_MEMORY_UTILIZATION
from stages.models.lengths import PictureLengths
from stages.models.loading import prepare_transformers
from stages.parameters.sampling import Pixels
from stages.policy import DEFAULT_LORA, Lora

HALF = 1300 - 1024  # tokens of a prompt beside its picture's, with our own wording
LARGEST = (8192, 8192)  # pixels of a picture that meets every processor's upper bound
CONTEXT = 4096  # tokens that prompt and completion seldom leave
OTHERS = GIB // 2  # of a GPU: what the driver keeps, and the learner's context
ASLEEP = 4 * GIB  # of a GPU, at most: what an engine keeps while the learner works


@dataclass(frozen=True)
class Wishes:
    """How the stages will be called: the options of the same names."""

    pixels: Pixels = Pixels()
    tensor_parallel: int = 1
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    samples: int = 5
    max_tokens: int = 256
    gradient_checkpointing: bool = False

    @property
    def share(self) -> float:
        return self.gpu_memory_utilization or GPU_MEMORY_UTILIZATION


def configured(name: str) -> Model:
    """The model `name` as far as its small files tell: of one on the hub, these alone are downloaded.

    Raises EngineError where it cannot be had.
    """
    if Path(name).is_dir():
        return Model(ModelRef(name), Path(name))
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        path = Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.txt"]))
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EngineError(
            f"{name}: neither a folder here nor to be had from the Hugging Face hub ({reason})"
        ) from error
    return Model(ModelRef(name, path.name), path)


def findings(name: str, wishes: Wishes, machine: Machine, lora: Lora = DEFAULT_LORA) -> Iterator[Finding]:
    prepare_transformers()
    try:
        model = configured(name)
        sizes = estimate.architecture(model.path)
    except StageError as error:
        yield fail("model", str(error), "another --model, or a newer transformers")
        return
    yield _model(model, sizes)
    gpu_bytes = min((gpu.total for gpu in machine.gpus), default=0)
    yield sampling(sizes, wishes, gpu_bytes, len(machine.gpus))
    group = Group(prompt_tokens(model, wishes.pixels), wishes.samples, wishes.max_tokens)
    yield learning(sizes, group, wishes, gpu_bytes, lora)
    yield beside(sizes, machine)


def prompt_tokens(model: Model, pixels: Pixels) -> int:
    """The longest prompt: our wording around a picture as large as the processor lets it be; 1,300 tokens where the
    processor's make is not known."""
    return (PictureLengths(model, pixels).tokens(LARGEST) or 1024) + HALF


def _model(model: Model, sizes: Architecture) -> Finding:
    named = ", ".join(model.architectures) or "no architecture named"
    text = (
        f"{model.ref.name}: {named}; {(sizes.text + sizes.vision) / 1e9:.2f} billion parameters, {sizes.vision / 1e9:.2f} "
        f"of them for pictures; {sizes.weights / GIB:.1f} GiB in bfloat16, {sizes.cache / 1024:.0f} KiB a token cached"
    )
    here = any(model.path.glob("*.safetensors"))
    figures = {"text": sizes.text, "vision": sizes.vision, "weights": sizes.weights, "cache_a_token": sizes.cache}
    if here:
        return ok("model", text, **figures)
    index = model.path / INDEX_FILE
    size = json.loads(index.read_text()).get("metadata", {}).get("total_size") if index.is_file() else None
    download = f"{size / GIB:.1f} GiB" if isinstance(size, int) else "its weights"
    return warn("model", text, f"{download} to be downloaded when it is first used", **figures)


def sampling(sizes: Architecture, wishes: Wishes, gpu_bytes: int, gpus: int) -> Finding:
    """vLLM's engine on GPUs of so many bytes; with 0, what it would take."""
    if not gpu_bytes:
        need = estimate.sampling(sizes, 0, wishes.tensor_parallel)
        least = need.weights + need.working + CONTEXT * sizes.cache // wishes.tensor_parallel
        text = f"on the CPU, in float32: {2 * sizes.weights / GIB:.1f} GiB of weights; on a GPU, at least {least / GIB:.1f}"
        return ok("sampling", f"{text} GiB", **need.by_name())
    engine = estimate.sampling(sizes, wishes.share * gpu_bytes, wishes.tensor_parallel)
    tokens = estimate.cached_tokens(sizes, engine, wishes.tensor_parallel)
    context = wishes.max_model_len or sizes.context or CONTEXT
    on = f"each of {wishes.tensor_parallel} GPUs" if wishes.tensor_parallel > 1 else "a GPU"
    text = f"{engine} of {gpu_bytes / GIB:.1f} on {on}; room for {tokens:,} tokens at a time"
    figures = engine.by_name() | {"tokens": tokens, "context": context}
    if tokens >= context:
        return ok("sampling", text, **figures)
    if tokens >= CONTEXT:
        return fail("sampling", f"{text}, and a context has {context:,}", f"--max-model-len {CONTEXT}", **figures)
    return fail("sampling", text, _more_room(sizes, wishes, gpu_bytes, gpus), **figures)


def _more_room(sizes: Architecture, wishes: Wishes, gpu_bytes: int, gpus: int) -> str:
    for more in (2, 4, 8):
        engine = estimate.sampling(sizes, wishes.share * gpu_bytes, more)
        if more > wishes.tensor_parallel and estimate.cached_tokens(sizes, engine, more) >= CONTEXT:
            there = "" if gpus >= more else f" ({gpus} here)"
            return f"--tensor-parallel {more}{there} --max-model-len {CONTEXT}"
    return "a smaller --model, or larger GPUs"


def learning(sizes: Architecture, group: Group, wishes: Wishes, gpu_bytes: int, lora: Lora = DEFAULT_LORA) -> Finding:
    """A step of `update` on the longest prompt there is."""
    whole = estimate.learning(sizes, group, lora, wishes.gradient_checkpointing)
    less = estimate.learning(sizes, group, lora, checkpointing=True)
    figures = whole.by_name() | {"total": whole.total, "checkpointed": less.total, "prompt": group.prompt}
    text = f"a step on {group}: {whole}"
    if not gpu_bytes:
        text += "" if wishes.gradient_checkpointing else f"; {less.total / GIB:.1f} with --gradient-checkpointing"
        return ok("learning", f"{text}; on the CPU twice as much, in float32", **figures)
    free = gpu_bytes - OTHERS
    if whole.total <= free:
        return ok("learning", text, **figures)
    ways = []
    if not wishes.gradient_checkpointing and less.total <= free:
        ways.append(f"--gradient-checkpointing ({less.total / GIB:.1f} GiB)")
    longest = estimate.longest_prompt(sizes, free, group, lora, wishes.gradient_checkpointing)
    if longest > HALF + 64:
        ways.append(f"--max-pixels {(longest - HALF) * 784} (prompts of {longest:,} tokens)")
    return fail("learning", f"{text}, and a GPU has {gpu_bytes / GIB:.1f}",
                ", or ".join(ways) or "a smaller --model, or a larger GPU", **figures)  # fmt: skip


def beside(sizes: Architecture, machine: Machine) -> Finding:
    """`run`: the weights of the sleeping engine wait in the computer's own memory."""
    if not machine.gpus:
        need = 2 * 2 * sizes.weights  # the sampler's copy and the learner's, in float32
        text = f"both in float32: {need / GIB:.1f} GiB of {machine.free_memory / GIB:.0f} free"
    else:
        need = sizes.weights + ASLEEP
        text = f"the sleeping engine takes {need / GIB:.1f} GiB of the computer's {machine.free_memory / GIB:.0f} free"
    if need <= machine.free_memory:
        return ok("run", text, bytes=need)
    return fail("run", text, "a loop over the stages keeps one model at a time; or a smaller --model", bytes=need)
