"""The optimizer, the baseline and the KL control."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.parameters.call import Call
from stages.parameters.option import option


@dataclass(frozen=True)
class UpdateParams:
    """The options of `update`."""

    lr: float = option(1e-6, "Learning rate.", minimum=0.0)
    groups_per_step: int = option(1, "Groups in one optimizer step of the Solver.", minimum=1)
    proposer_every: int = option(5, "The Proposer learns when t is a multiple of this.", minimum=1)
    baseline: Literal["ema", "group"] = option(
        "ema", "The Solver's: moving average over groups, or each group's own mean."
    )
    kl_start: float = option(1e-3, "β at step 0.", minimum=0.0)
    kl_target: float = option(0.02, "κ, the KL that β is steered towards.", minimum=1e-9)
    kl_min: float = option(1e-8, "β never falls below this.", minimum=0.0)
    gradient_checkpointing: bool = option(
        False, "Make activations again in backward: slower, for less memory.", recorded=False
    )


@dataclass(frozen=True)
class UpdateCall(Call):
    """What is written is a directory."""

    out: Path | None = option(None, "The new policy's directory.", shown="policy/ beside the input")
