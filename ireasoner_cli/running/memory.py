"""How the engines and the learners of a run share their GPUs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ireasoner_cli.running.prepare import Prepare
from stages.job import Start
from stages.models.device import gpu_bytes
from stages.models.estimate import Held
from stages.models.fitting import GPU_MEMORY_UTILIZATION
from stages.models.sharing import check_turns, free_host_bytes, has_room, share_beside_learner
from stages.policy import DEFAULT_LORA

SHARE = "gpu_memory_utilization"


def engine_share(
    prepare: Prepare, start: Start, settings: Mapping[str, object], out: Path, engines: int, ranks: int
) -> float | None:
    """The share of a GPU's memory that each of the `engines` on this machine is to use, so that a learner stays beside
    each of the first `ranks`; None where it is set, or where they take turns. `settings` are the stages' own.

    Raises EngineError where they take turns and the machine's memory does not hold those that sleep.
    """
    gpu, host = gpu_bytes(), free_host_bytes()
    if not engines or gpu is None:
        return None
    own = start.policy.state.lora if start.policy.state else DEFAULT_LORA
    rank, checkpointing, in_4bit, sharded = (
        prepare.setting(option, "update", settings, out)
        for option in ("lora_rank", "gradient_checkpointing", "load_in_4bit", "shard_base")
    )
    held = Held(min(engines, ranks) if sharded else 1, in_4bit)
    lora = replace(own, rank=rank or own.rank)
    chosen = [prepare.setting(SHARE, "propose", {**settings, "images": out})]
    chosen += [prepare.setting(SHARE, stage, settings, out) for stage in ("rollout", "eval")]
    share = None
    if set(chosen) == {None}:
        gpus = prepare.setting("tensor_parallel", "rollout", settings, out)
        share = share_beside_learner(start.model, gpu, gpus, lora, checkpointing, held)
    if share is None and host is not None:
        left = 1 - max(each or GPU_MEMORY_UTILIZATION for each in chosen)
        if not has_room(start.model, int(left * gpu), lora, checkpointing, held):
            check_turns(start.model, engines, min(engines, ranks), host)
    return share
