"""The optimizer, the baseline and the KL control."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.learning.advantages import Advantage
from stages.learning.kl import Kl
from stages.learning.losses import Loss
from stages.learning.losses.bounds import DEFAULT_BOUNDS
from stages.parameters.call import Call
from stages.parameters.option import option

CLIP = "Clipping (--loss clip)"
PAIRS = "Preferences (--loss dpo)"
LAST_TOKEN = "Last-token self-reward (--loss-aux last-token)"
LORA = "LoRA"
MEMORY = "Memory"


@dataclass(frozen=True)
class UpdateParams:
    """The options of `update`."""

    lr: float = option(1e-6, "Learning rate.", minimum=0.0)
    groups_per_step: int = option(1, "Groups in one optimizer step of the Solver.", minimum=1)
    proposer_every: int = option(5, "The Proposer learns when t is a multiple of this.", minimum=1)
    roles: Literal["both", "solver", "proposer"] = option(
        "both", "Who learns; with the Proposer alone, --groups-per-step is of its groups."
    )
    advantage: Advantage = option(
        "ema",
        "Reward less a moving average over groups, less the group's own mean, that over the standard deviation, less "
        "the mean of the others, or the reward itself. The Proposer's group is the proposals about the same images; "
        "of one alone there is only the moving average. Of rows with credit by step (`score --credit`) that is the "
        "advantage, and this the Proposer's alone.",
    )
    lag: int = option(
        0,
        "Updates that the rows may be behind: with 1 they may be of the policy that --policy was made from, too.",
        minimum=0,
        maximum=1,
    )
    loss: Loss = option(
        "policy-gradient",
        "Importance-weighted policy gradient, its clipped form (PPO's), likelihood of the selected rows, or direct "
        "preference optimisation over the pairs of `score --pairs`, which needs no advantage.",
    )
    kl: Kl = option("reverse", "KL(π‖π_ref), or KL(π_ref‖π), exact over the vocabulary.")
    kl_fixed: float | None = option(None, "β throughout, in place of its control.", minimum=0.0, shown=False)
    kl_start: float = option(1e-3, "β at step 0.", minimum=0.0)
    kl_target: float = option(0.02, "κ, the KL that β is steered towards.", minimum=1e-9)
    kl_min: float = option(1e-8, "β never falls below this.", minimum=0.0)
    clip_low: float = option(DEFAULT_BOUNDS.low, "π/μ is clipped below 1 − this.", minimum=0.0, maximum=1.0, panel=CLIP)
    clip_high: float = option(DEFAULT_BOUNDS.high, "π/μ is clipped above 1 + this.", minimum=0.0, panel=CLIP)
    clip_dual: float | None = option(
        DEFAULT_BOUNDS.dual,
        "Where the advantage is negative, the loss of a token is at most so many times it.",
        minimum=1.0,
        shown="no bound",
        panel=CLIP,
    )
    dpo_beta: float = option(0.1, "how much the margin of a pair counts.", symbol="β", minimum=1e-9, panel=PAIRS)
    sft_coef: float = option(
        0.0, "so many times the likelihood of the preferred row is learned, too.", symbol="c", minimum=0.0, panel=PAIRS
    )
    reference: Literal["base", "start"] = option(
        "base", "What pairs are measured from: the base model, or the policy as this update finds it.", panel=PAIRS
    )
    loss_aux: Literal["last-token"] | None = option(
        None,
        "Learn, too, to foretell whether an answer is the dominant one: by the probability of a token behind it that "
        "is never sampled.",
        shown=False,
        panel=LAST_TOKEN,
    )
    aux_coef: float = option(0.1, "what it counts beside the loss.", symbol="α", minimum=0.0, panel=LAST_TOKEN)
    self_reward_scale: float = option(
        0.1, "self-reward of a nat of that token's log-probability.", symbol="β_v", minimum=1e-9, panel=LAST_TOKEN
    )
    last_token: str | None = option(
        None,
        "The token, of the first such update, kept after.",
        metavar="TOKEN",
        shown="the policy's, or the tokenizer's last that nothing uses",
        panel=LAST_TOKEN,
    )
    teacher_decay: float | None = option(
        None,
        "Keep policy/teacher, an exponential average of the Solver's adapter: after each of its optimizer steps, so "
        "many times what it was.",
        symbol="α",
        minimum=0.0,
        maximum=1.0,
        shown=False,
    )
    sampling_temperature: bool = option(
        False, "Take log π in the loss at the temperature that the rows were sampled at, as log μ was."
    )
    lora_rank: int | None = option(
        None,
        "of the first update, kept after.",
        symbol="r",
        minimum=1,
        maximum=512,
        shown="the policy's, or 16",
        panel=LORA,
    )
    lora_alpha: int | None = option(
        None, "of the first update, kept after.", symbol="α", minimum=1, shown="the policy's, or 32", panel=LORA
    )
    lora_targets: str | None = option(
        None,
        "Linear layers of the language model, of the first update, kept after: of q,k,v,o,gate,up,down, or what else "
        "the architecture has; or all.",
        metavar="NAMES",
        shown="the policy's, or all",
        panel=LORA,
    )
    gradient_checkpointing: bool = option(
        False, "Make activations again in backward: slower, for less memory.", recorded=False, panel=MEMORY
    )
    load_in_4bit: bool = option(
        False,
        "Keep the language model's frozen matrices in 4 bits (NF4): a quarter of their memory, and log π of another "
        "model than was sampled, by how much is said. Wants the extra 4bit.",
        panel=MEMORY,
    )
    shard_base: bool = option(
        False,
        "Spread the frozen layers over torchrun's processes, for models larger than a GPU (FSDP2).",
        recorded=False,
        panel=MEMORY,
    )


@dataclass(frozen=True)
class UpdateCall(Call):
    """What is written is a directory."""

    out: Path | None = option(None, "The new policy's directory.", shown="policy/ beside the input")
