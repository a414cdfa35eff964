"""The rewards and their constants."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.parameters.call import Call
from stages.parameters.option import option

CONSTANTS = "Constants of the rewards"

EmbeddingName = Literal["static", "hidden"]


@dataclass(frozen=True)
class ScoreParams:
    """The options of `score`; the symbols are the design's."""

    reward: Literal["mixed", "answer", "step"] = option(
        "mixed", "The Solver's reward: both parts by schedule, or one alone."
    )
    embedding: EmbeddingName = option(
        "static",
        "What steps are compared by: the model's token embeddings (the paper's, blind to the order of the "
        "words), or the policy's hidden states, for which the model is loaded and the images are read.",
    )
    no_decay: bool = option(False, "All step positions weigh the same.")
    no_density: bool = option(False, "Small agreeing groups count like large ones.")
    no_warmup: bool = option(False, "The step reward has its full weight from the start.")
    total_steps: int = option(2500, "training steps of the whole run.", symbol="T", minimum=1)
    max_steps: int = option(8, "Reasoning steps considered, at most.", minimum=1)
    answer_exponent: float = option(0.7, symbol="α", minimum=0.0, panel=CONSTANTS)
    length_penalty: float = option(0.05, symbol="η", minimum=0.0, maximum=1.0, panel=CONSTANTS)
    length_limit: int = option(64, "words before the answer.", symbol="W", minimum=1, panel=CONSTANTS)
    decay: float = option(0.15, "a position.", symbol="δ", minimum=0.0, panel=CONSTANTS)
    density_exponent: float = option(0.7, symbol="γ", minimum=0.0, panel=CONSTANTS)
    warmup: float = option(
        0.3, "share of T without step reward.", symbol="h", minimum=0.0, maximum=1.0, panel=CONSTANTS
    )
    max_step_weight: float = option(0.7, symbol="λ_max", minimum=0.0, maximum=1.0, panel=CONSTANTS)
    entropy_target: float = option(0.90, "nats.", symbol="m", minimum=0.0, panel=CONSTANTS)
    entropy_width: float = option(0.35, "nats.", symbol="s", minimum=0.001, panel=CONSTANTS)


@dataclass(frozen=True)
class ScoreCall(Call):
    """The policy is looked at for hidden states only."""

    policy: Path | None = option(
        None,
        "The policy that the rollouts were sampled from; only --embedding hidden looks at it.",
        shown="the base model, at step 0",
    )
