"""How much memory sampling and learning take of a GPU, from a model's configuration: of its weights nothing is read,
and every tensor is counted without being there (on torch's meta device).

Every message about memory comes from here. What is left out is what nobody can count beforehand: the driver's own
context, and the holes between an allocator's blocks; together a GiB or two.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from stages.errors import EngineError, first_line
from stages.models.language_model import has_experts, language_model, target_modules
from stages.policy import ATTENTION, DEFAULT_LORA, PROJECTIONS, Lora

GIB = 2**30
WIDTH = {"cuda": 2, "cpu": 4}  # bytes of a number: bfloat16 and float32
TRAINED = 4  # those of adapters, their gradients and their moments: float32

BYTES_OF_4_BITS = 0.516  # a weight in 4 bits, with its share of the scales of its block, themselves in 8 bits

# Of vLLM's engine: what it computes at a time, and how many sequences it draws tokens for.
BATCH_TOKENS, SEQUENCES = 8192, 1024
GRAPHS = GIB  # what its captured graphs and its compiled kernels keep


@dataclass(frozen=True)
class Architecture:
    """A model's sizes. text, vision: parameters, tied ones counted once. linears: (outputs, inputs) of each linear
    layer that may have an adapter, by its name in the model. Widths are the language model's; `experts`: how many of
    its feed-forward blocks of width `intermediate` a token goes through. context: tokens at most, None where nothing
    says. matrices: parameters of the decoder's layers that may be in shards, quantisable: those that may be in 4 bits,
    linear layers'."""

    text: int
    vision: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None
    linears: Mapping[str, tuple[int, int]]
    experts: int = 1
    matrices: int = 0
    quantisable: int = 0

    @property
    def weights(self) -> int:
        """Bytes, in bfloat16."""
        return WIDTH["cuda"] * (self.text + self.vision)

    @property
    def cache(self) -> int:
        """Bytes of a token's keys and values in all layers, in bfloat16."""
        return 2 * WIDTH["cuda"] * self.layers * self.kv_heads * self.head_dim

    def adapter(self, lora: Lora = DEFAULT_LORA) -> int:
        """Parameters of one adapter: rank · (inputs + outputs) of each layer that has one."""
        wanted = re.compile(lora.target_modules)
        return sum(lora.rank * sum(sides) for name, sides in self.linears.items() if wanted.fullmatch(name))


@lru_cache
def architecture(folder: Path) -> Architecture:
    """That of the config.json in `folder`, its model laid out without memory: a second or two.

    `loading.prepare_transformers` comes first. Raises EngineError for one that transformers cannot lay out.
    """
    from transformers import AutoConfig

    try:
        return architecture_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except Exception as error:
        reason = first_line(error)
        raise EngineError(f"{folder}: its architecture cannot be laid out ({reason})") from error


def architecture_of(config: Any) -> Architecture:
    """That of a configuration of transformers. Raises whatever transformers does for one without a model class."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    decoder = {id(parameter) for parameter in model.get_decoder().parameters()}
    decoder |= {id(parameter) for parameter in model.get_output_embeddings().parameters()}
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    text, decoder_layers = config.get_text_config(), language_model(model).layers
    every = Lora(targets=ATTENTION if has_experts(model) else tuple(PROJECTIONS))
    text_parameters = sum(size for one, size in sizes.items() if one in decoder)
    return Architecture(
        text=text_parameters,
        vision=sum(sizes.values()) - text_parameters,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "moe_intermediate_size", None) or text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
        linears={name: _sides(model.get_submodule(name)) for name in target_modules(every, model)},
        experts=getattr(text, "num_experts_per_tok", None) or 1,
        matrices=sum(parameter.numel() for parameter in decoder_layers.parameters() if parameter.dim() > 1),
        quantisable=sum(
            module.weight.numel() for module in decoder_layers.modules() if isinstance(module, torch.nn.Linear)
        ),
    )


def _sides(linear: Any) -> tuple[int, int]:
    return linear.out_features, linear.in_features


@dataclass(frozen=True)
class Held:
    """How a process of the learner has the frozen base: its layers in shards over so many ranks, or in 4 bits."""

    ranks: int = 1
    in_4bit: bool = False

    def weights(self, sizes: Architecture, width: int = WIDTH["cuda"]) -> int:
        """Bytes of a process, at numbers of `width` bytes: what is put together for a while counts, of shards two
        layers, of 4 bits a matrix."""
        whole = width * (sizes.text + sizes.vision)
        if self.in_4bit:
            largest = max((outputs * inputs for outputs, inputs in sizes.linears.values()), default=0)
            return whole - int((width - BYTES_OF_4_BITS) * sizes.quantisable) + width * largest
        if self.ranks > 1:
            gathered = min(2 * sizes.matrices // sizes.layers, sizes.matrices)
            return whole - width * (sizes.matrices - sizes.matrices // self.ranks - gathered)
        return whole


WHOLE = Held()


@dataclass(frozen=True)
class GroupSize:
    """What a step learns from at a time: a prompt of so many tokens, its picture's among them, and completions."""

    prompt: int = 1300
    samples: int = 5
    completion: int = 256

    def __str__(self) -> str:
        return f"{self.prompt:,} + {self.samples} × {self.completion:,} tokens"


def told(size: float, unit: bool = True) -> str:
    """`15.4 GiB`; of less than a tenth of one, `12 MiB`."""
    if size < GIB / 10:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / GIB:.1f}{' GiB' if unit else ''}"


@dataclass(frozen=True)
class Parts:
    """Bytes, a field each; by name in the order they are told."""

    @property
    def total(self) -> int:
        return sum(self.by_name().values())

    def by_name(self) -> dict[str, int]:
        return {each.name.replace("_", " "): getattr(self, each.name) for each in fields(self)}

    def __str__(self) -> str:
        named = ", ".join(f"{name} {told(size, unit=False)}" for name, size in self.by_name().items() if size)
        return f"{told(self.total)} ({named})"


@dataclass(frozen=True)
class Learning(Parts):
    """Of a step of `update`. adapters: two, with their moments and one's gradient. activations: what backward needs of
    the prompt and of a pass of completions; prompt_cache: keys and values of the prompt under π_ref, and, with
    checkpointing, under π and their gradient; logits: those of a chunk, and what is made of them, or where that is more
    what one layer's backward holds for a while."""

    weights: int
    adapters: int
    activations: int
    prompt_cache: int
    logits: int


def learning(
    sizes: Architecture,
    group: GroupSize,
    lora: Lora = DEFAULT_LORA,
    checkpointing: bool = False,
    device: str = "cuda",
    held: Held = WHOLE,
) -> Learning:
    """The peak of one step, in a process of its own, on a GPU or (in float32) on a CPU."""
    from stages.learning.loss import POSITIONS_PER_CHUNK
    from stages.learning.packing import TOKENS_PER_PASS

    width = WIDTH[device]
    rows = max(1, min(group.samples, TOKENS_PER_PASS[device] // group.completion))
    at_once = rows * group.completion
    tokens, longest = group.prompt + at_once, max(group.prompt, at_once)
    attention, feed_forward = sizes.heads * sizes.head_dim, sizes.experts * sizes.intermediate
    # Of a token in a layer: its states before both blocks, q, k and v, what was attended to, gate and up.
    kept = width * (2 * sizes.hidden + 2 * attention + 2 * sizes.kv_heads * sizes.head_dim + 2 * feed_forward)
    # And for the while of its backward: the product of gate and up, and the gradients of all three.
    passing = width * 4 * feed_forward
    chunk = min(POSITIONS_PER_CHUNK[device], at_once)
    cache = sizes.cache * width // WIDTH["cuda"]
    before = rows * group.prompt * cache  # each row has the prompt's keys and values before its own
    logits = 3 * TRAINED * chunk * sizes.vocabulary  # of π, of π_ref and the gradient, in float32
    return Learning(
        weights=held.weights(sizes, width),
        adapters=TRAINED * sizes.adapter(lora) * (2 * 3 + 1),
        activations=tokens * sizes.layers * (width * sizes.hidden if checkpointing else kept)
        + (0 if checkpointing else before),
        prompt_cache=(3 if checkpointing else 1) * group.prompt * cache,
        logits=max(logits, longest * (passing + (kept if checkpointing else 0))),
    )


@dataclass(frozen=True)
class Sampling(Parts):
    """Of vLLM's engine, on each of its GPUs. working: what its steps hold for a while. cache: the keys and values that
    are left room for, all that the engine may use less the others; 0 where that is less than nothing."""

    weights: int
    working: int
    cache: int


def sampling(sizes: Architecture, usable: float, gpus: int = 1, weights: int | None = None) -> Sampling:
    """An engine over so many `gpus` that may use so many bytes of each; `weights`: bytes, where their files are known
    (quantised ones are less)."""
    each = (sizes.weights if weights is None else weights) // gpus
    batch = BATCH_TOKENS * WIDTH["cuda"] * (4 * sizes.hidden + 3 * sizes.experts * sizes.intermediate // gpus)
    working = batch + 2 * 4 * SEQUENCES * sizes.vocabulary + GRAPHS
    return Sampling(weights=each, working=working, cache=max(0, int(usable) - each - working))


def cached_tokens(sizes: Architecture, engine: Sampling, gpus: int = 1) -> int:
    """How many tokens' keys and values such an engine holds at a time; heads are spread over its GPUs, each at least
    one."""
    return engine.cache // (sizes.cache // min(gpus, sizes.kv_heads))


def longest_prompt(
    sizes: Architecture,
    free: float,
    group: GroupSize,
    lora: Lora = DEFAULT_LORA,
    checkpointing: bool = False,
    held: Held = WHOLE,
) -> int:
    """The most tokens of prompt with which a step on `group` takes no more than `free` bytes; 0 where none does."""
    low, high = 0, 1 << 20
    while low < high:
        middle = (low + high + 1) // 2
        fits = learning(sizes, replace(group, prompt=middle), lora, checkpointing, held=held).total <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
