"""A model on this machine: what works with it, whether sampling and learning fit, and with which options."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from ireasoner_cli.doctor.finding import Finding, fail, ok, warn
from ireasoner_cli.doctor.machine import Machine
from stages import hub
from stages.contract import ModelRef
from stages.errors import StageError
from stages.models import estimate
from stages.models.estimate import GIB, Architecture, GroupSize, Held, told
from stages.models.finding import INDEX_FILE, Model
from stages.models.fitting import GPU_MEMORY_UTILIZATION
from stages.models.lengths import PictureLengths
from stages.models.loading import prepare_transformers
from stages.models.support import Support, support
from stages.parameters.sampling import Pixels
from stages.policy import DEFAULT_LORA, Lora

USUAL = 1300  # tokens of a prompt with a picture of 1,024
HALF = USUAL - 1024  # of these, our own wording
PIXELS_A_TOKEN = 28 * 28
SMALL_PICTURE = 64  # tokens: with less there is little to see
LARGEST = (8192, 8192)  # pixels of a picture that meets every processor's upper bound
OTHERS = GIB // 2  # of a GPU: what the driver keeps, and the learner's context
ASLEEP = 4 * GIB  # of the computer's memory, beside its weights: what an engine takes while it sleeps
NO_BOUNDS = Pixels()
WHAT = {"sampling": "sampling with vLLM", "adapters": "policies in vLLM", "learning": "learning"}


@dataclass(frozen=True)
class Wishes:
    """How the stages will be called: the options of the same names."""

    pixels: Pixels = NO_BOUNDS
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
    path = hub.fetch(name, ["*.json", "*.jinja", "*.txt"])
    return Model(ModelRef(name, path.name), path)


def findings(name: str, wishes: Wishes, machine: Machine, lora: Lora = DEFAULT_LORA) -> Iterator[Finding]:
    prepare_transformers()
    try:
        model = configured(name)
        sizes = estimate.architecture(model.path)
    except StageError as error:
        yield fail("model", str(error), "another --model")
        return
    yield _model(model, sizes)
    yield from works(support(model))
    gpu_bytes = min((gpu.total for gpu in machine.gpus), default=0)
    group = GroupSize(prompt_tokens(model, wishes.pixels), wishes.samples, wishes.max_tokens)
    yield sampling(sizes, group, wishes, gpu_bytes, len(machine.gpus))
    yield learning(sizes, group, wishes, gpu_bytes, lora)
    yield beside(sizes, machine)


def works(with_it: Support) -> Iterator[Finding]:
    """What the family allows: what does not work with it is worth a look, and no failure of the machine."""
    for about, reason in asdict(with_it).items():
        if reason:
            yield warn("family", f"no {WHAT[about]}: {reason}", "")
    if not any(asdict(with_it).values()):
        yield ok("family", f"{', '.join(WHAT.values())}: all work with it")


def prompt_tokens(model: Model, pixels: Pixels) -> int:
    """The longest prompt: our wording around a picture as large as the processor lets it be; 1,300 tokens where the
    processor's make is not known."""
    return (PictureLengths(model, pixels).tokens(LARGEST) or 1024) + HALF


def _model(model: Model, sizes: Architecture) -> Finding:
    named = ", ".join(model.architectures) or "no architecture named"
    text = (
        f"{model.ref.name}: {named}; {(sizes.text + sizes.vision) / 1e6:,.0f} million parameters, "
        f"{sizes.vision / 1e6:,.0f} of them for pictures; {told(sizes.weights)} in bfloat16, "
        f"{sizes.cache / 1024:.0f} KiB a token cached"
    )
    here = any(model.path.glob("*.safetensors"))
    figures = {"text": sizes.text, "vision": sizes.vision, "weights": sizes.weights, "cache_a_token": sizes.cache}
    if here:
        return ok("model", text, **figures)
    notes = model.settings(INDEX_FILE).get("metadata")
    size = notes.get("total_size") if isinstance(notes, dict) else None
    download = told(size) if isinstance(size, int) else "its weights"
    return warn("model", text, f"{download} to be downloaded when it is first used", **figures)


def sampling(sizes: Architecture, group: GroupSize, wishes: Wishes, gpu_bytes: int, gpus: int) -> Finding:
    """vLLM's engine on GPUs of so many bytes; with 0, what it would take."""
    parallel = wishes.tensor_parallel
    needed = 1024 * math.ceil((group.prompt + group.completion) / 1024)
    if not gpu_bytes:
        need = estimate.sampling(sizes, 0, parallel)
        least = need.weights + need.working + needed * sizes.cache // parallel
        text = f"on the CPU {told(2 * sizes.weights)} of weights, in float32; on a GPU at least {told(least)}"
        return ok("sampling", text, **need.by_name())
    engine = estimate.sampling(sizes, wishes.share * gpu_bytes, parallel)
    tokens = estimate.cached_tokens(sizes, engine, parallel)
    context = wishes.max_model_len or sizes.context or needed
    on = f"each of {parallel} GPUs" if parallel > 1 else "a GPU"
    text = f"{engine} of {told(gpu_bytes)} on {on}; room for {tokens:,} tokens at a time"
    figures = engine.by_name() | {"tokens": tokens, "context": context}
    if tokens >= context:
        return ok("sampling", text, **figures)
    if tokens >= needed:
        advice = f"--max-model-len {needed}: vLLM does not start without room for one context"
        return fail("sampling", f"{text}, and a context has {context:,}", advice, **figures)
    return fail("sampling", text, _more_room(sizes, needed, wishes, gpu_bytes, gpus), **figures)


def _more_room(sizes: Architecture, needed: int, wishes: Wishes, gpu_bytes: int, gpus: int) -> str:
    for more in (2, 4, 8):
        engine = estimate.sampling(sizes, wishes.share * gpu_bytes, more)
        if more > wishes.tensor_parallel and estimate.cached_tokens(sizes, engine, more) >= needed:
            there = "" if gpus >= more else f" ({gpus} here)"
            return f"--tensor-parallel {more}{there} --max-model-len {needed}"
    return "a smaller --model, or larger GPUs"


def learning(
    sizes: Architecture, group: GroupSize, wishes: Wishes, gpu_bytes: int, lora: Lora = DEFAULT_LORA
) -> Finding:
    """A step of `update` on the longest prompt there is. Where only a shorter one fits, it is worth a look: not every
    pool has pictures as large as the processor allows."""
    checkpointing = wishes.gradient_checkpointing
    whole = estimate.learning(sizes, group, lora, checkpointing)
    less = estimate.learning(sizes, group, lora, checkpointing=True).total
    figures = whole.by_name() | {"total": whole.total, "checkpointed": less, "prompt": group.prompt}
    text = f"a step on {group}: {whole}"
    if not gpu_bytes:
        text += "" if checkpointing else f"; {told(less)} with --gradient-checkpointing"
        return ok("learning", f"{text}; on the CPU twice as much, in float32", **figures)
    free = gpu_bytes - OTHERS
    if whole.total <= free:
        return ok("learning", text, **figures)
    ways = []
    if not checkpointing and less <= free:
        ways.append(f"--gradient-checkpointing ({told(less)})")
    else:
        ways += _held_otherwise(sizes, group, lora, checkpointing, free)
    for more in [""] if checkpointing else ["", "--gradient-checkpointing "]:
        longest = estimate.longest_prompt(sizes, free, group, lora, checkpointing or bool(more))
        if longest > HALF + SMALL_PICTURE:
            bound = (longest - HALF) * PIXELS_A_TOKEN
            ways.append(f"{more}--max-pixels {bound} (prompts of {longest:,} tokens)")
            break
    advice = ", or ".join(ways) or "a smaller --model, or a larger GPU"
    usual = estimate.learning(sizes, replace(group, prompt=USUAL), lora, checkpointing).total
    say = warn if usual <= free and group.prompt > USUAL else fail
    return say("learning", f"{text}, and a GPU has {told(gpu_bytes)}", advice, **figures)


def _held_otherwise(sizes: Architecture, group: GroupSize, lora: Lora, checkpointing: bool, free: int) -> Iterator[str]:
    """The options with which a base in 4 bits fits, and one in shards over the fewest processes."""
    in_4bit = {"--load-in-4bit": Held(in_4bit=True)}
    in_shards = {f"--shard-base over {ranks} GPUs": Held(ranks) for ranks in (2, 4, 8)}
    for options in (in_4bit, in_shards):
        for (option, held), more in product(options.items(), [True] if checkpointing else [False, True]):
            total = estimate.learning(sizes, group, lora, more, held=held).total
            if total <= free:
                yield f"{option}{' --gradient-checkpointing' if more > checkpointing else ''} ({told(total)})"
                break


def beside(sizes: Architecture, machine: Machine) -> Finding:
    """`run`: engine and learner take turns on the GPU, and the weights of both wait in the computer's own memory."""
    free = told(machine.free_memory)
    if not machine.gpus:
        need = 2 * 2 * sizes.weights  # the sampler's copy and the learner's, in float32
        text = f"sampler and learner, in float32: {told(need)} of {free} free"
    else:
        need = 2 * sizes.weights + ASLEEP
        text = f"engine and learner, while they sleep, take {told(need)} of the computer's {free} free"
    if need <= machine.free_memory:
        return ok("run", text, bytes=need)
    return fail("run", text, "a loop over the stages keeps one model at a time; or a smaller --model", bytes=need)
