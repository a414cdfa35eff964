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
    update, rollout, answer = (prepare.options(stage, settings, out) for stage in ("update", "rollout", "eval"))
    propose = prepare.options("propose", {**settings, "images": out})
    held = Held(min(engines, ranks) if update["shard_base"] else 1, update["load_in_4bit"])
    lora, checkpointing = replace(own, rank=update["lora_rank"] or own.rank), update["gradient_checkpointing"]
    chosen = [options[SHARE] for options in (propose, rollout, answer)]
    share = None
    if set(chosen) == {None}:
        share = share_beside_learner(start.model, gpu, rollout["tensor_parallel"], lora, checkpointing, held)
    if share is None and host is not None:
        left = 1 - max(each or GPU_MEMORY_UTILIZATION for each in chosen)
        if not has_room(start.model, int(left * gpu), lora, checkpointing, held):
            check_turns(start.model, engines, min(engines, ranks), host)
    return share
