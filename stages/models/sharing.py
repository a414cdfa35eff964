"""An engine and a learner on one GPU: both there all the time where it holds them, else in turns, and the machine's
memory has what sleeps."""

from pathlib import Path

from stages.errors import EngineError
from stages.models.estimate import GIB, WHOLE, GroupSize, Held, architecture, cached_tokens, learning, sampling
from stages.models.finding import Model
from stages.models.fitting import weight_bytes
from stages.policy import DEFAULT_LORA, Lora

UNCOUNTED = 2 * GIB  # of a learner: the driver's context, and the holes between an allocator's blocks
AT_A_TIME = 128  # groups' completions that an engine has room for, at least, or it would wait for its cache


def has_room(
    model: Model, free_bytes: int, lora: Lora = DEFAULT_LORA, checkpointing: bool = False, held: Held = WHOLE
) -> bool:
    """Whether a learner, on groups such as the paper's, takes no more than the `free_bytes` that an engine leaves of a
    GPU's memory. False of a model that cannot be laid out beforehand."""
    try:
        return _learner(model, lora, checkpointing, held) <= free_bytes
    except EngineError:
        return False


def share_beside_learner(
    model: Model,
    gpu_bytes: int,
    gpus: int = 1,
    lora: Lora = DEFAULT_LORA,
    checkpointing: bool = False,
    held: Held = WHOLE,
) -> float | None:
    """The share of its GPUs' memory that an engine over so many of them may use where a learner is to have room beside
    it; None where that leaves the engine too little, or nobody can tell."""
    try:
        sizes = architecture(model.path)
        share = int(100 * (gpu_bytes - _learner(model, lora, checkpointing, held)) / gpu_bytes) / 100
    except EngineError:
        return None
    engine, group = sampling(sizes, share * gpu_bytes, gpus, weight_bytes(model)), GroupSize()
    enough = AT_A_TIME * (group.prompt + group.completion)
    return share if share > 0 and cached_tokens(sizes, engine, gpus) >= enough else None


def check_turns(model: Model, engines: int, learners: int, host_bytes: int) -> None:
    """Raises EngineError, with the figures, where the weights of so many engines and learners, which the machine's
    memory is to hold while they sleep, are more than its `host_bytes`."""
    weights = weight_bytes(model)
    needed = (engines + learners) * weights
    if needed > host_bytes:
        raise EngineError(
            f"{model.ref.name}: engines and learners take turns on their GPUs, and the machine's memory is to hold the "
            f"weights of {engines} + {learners} of them that sleep: {needed / GIB:.1f} GiB ({weights / GIB:.1f} each), "
            f"of {host_bytes / GIB:.1f} GiB that are free. Use fewer --workers, a smaller --groups-per-step, or a "
            "smaller --model"
        )


def free_host_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Of the machine's memory; None where nothing says."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _learner(model: Model, lora: Lora, checkpointing: bool, held: Held) -> int:
    return learning(architecture(model.path), GroupSize(), lora, checkpointing, held=held).total + UNCOUNTED
