"""The rewards and their constants."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules
from typing import Literal

from stages.parameters.call import Call
from stages.parameters.option import option

CONSTANTS = "Constants of the rewards"

REWARDS = Path(__file__).parent.parent / "rewards"
# What there is to choose from, for the help, read off the folders: importing them would take time.
SOLVER_TERMS, PROPOSER_TERMS = (
    sorted(module.name for module in iter_modules([str(REWARDS / folder)])) for folder in ("terms", "proposer")
)

EmbeddingName = Literal["static", "hidden"]


@dataclass(frozen=True)
class ScoreParams:
    """The options of `score`; the symbols are the design's."""

    rewarded: str = option(
        "answer",
        "Whose rows are rewarded, with commas between several; those of other passes are not learned from.",
        metavar="PASS",
    )
    target: str | None = option(
        None,
        "Right is the dominant answer of this pass (A+B: of several together, each pass counting the same), or the "
        "answer that is known; PASS=TARGET, with commas, where the passes that are rewarded have not the same.",
        metavar="PASS|known",
        shown="each pass's own",
    )
    pool: Literal["mean", "harmonic"] = option(
        "mean",
        "With --target A+B, an answer has the mean of its shares in these passes, or their harmonic mean, which is 0 "
        "for what one of them never says.",
    )
    reward: Literal["mixed", "answer", "step"] = option(
        "mixed", "The Solver's reward: both parts by schedule, or one alone."
    )
    solver_reward: str | None = option(
        None,
        f'A sum of terms in place of it, such as "0.9*majority + 0.1*format"; there are {", ".join(SOLVER_TERMS)}.',
        shown=False,
    )
    factor: str | None = option(
        None,
        "Multiply the Solver's reward by LO + (HI − LO)·r, r such a term; by 1 where it says nothing.",
        metavar="TERM:LO:HI",
        shown=False,
    )
    form: str = option("think,answer", "The tags that make up a row in form, for the term format.", metavar="TAGS")
    verdict: str = option(
        "score:0:1",
        "The tag in which rows give a number, and its bounds, for the terms verdict, calibration and valid; what is "
        "outside them is dropped.",
        metavar="TAG:LO:HI",
    )
    proposer_reward: str = option("entropy", f"A sum of terms: {', '.join(PROPOSER_TERMS)}.")
    question_share: float = option(
        0.0,
        "the Proposer's reward loses so many times the share of like questions among those about the same images; "
        "0 at least is left.",
        symbol="W",
        minimum=0.0,
    )
    kinds: str | None = option(
        None,
        "The kinds of question, with commas, of which proposals name one in a tag <kind>, for the term balance.",
        metavar="KINDS",
        shown=False,
    )
    vote: Literal["count", "likelihood", "self-reward", "weakest-token"] = option(
        "count",
        "How rollouts count when the dominant answer is chosen: each the same; by the probability that it had, or that "
        "its least likely token had; or by how the policy trusts it, for which the model is loaded, and which "
        "`update --loss-aux last-token` teaches.",
    )
    credit: Literal["branching", "trust", "vote"] | None = option(
        None,
        "An advantage for each of the Solver's steps, in place of one for all: what the step changed of the group's "
        "mean reward; the row's own, spread by how the base model believes each step, for which it is loaded; or how "
        "many make the same step there.",
        shown=False,
    )
    keep: str | None = option(
        None,
        "The Solver learns only from groups whose dominant answer has between LO and HI of the vote, such as 0.3:0.8.",
        metavar="LO:HI",
        shown=False,
    )
    top: int | None = option(
        None,
        "The Solver learns only from the K best rows of each dominant group.",
        minimum=1,
        metavar="K",
        shown=False,
    )
    pairs: str | None = option(
        None,
        "Which rows are better than which, for update --loss dpo: better:GOOD:BAD[:BAD…] by their passes, or "
        "anchored:PASS:EARLIER by the vote.",
        metavar="RULE:PASS:PASS",
        shown=False,
    )
    term: list[str] | None = option(
        None,
        "A term of your own: a function of a pandas DataFrame of whole groups that returns a Series. This runs your "
        "code. Can be repeated.",
        metavar="FILE.py:FUNCTION",
        shown=False,
        recorded=False,
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
        "The policy that the rollouts were sampled from; only --embedding hidden and --vote self-reward look at it.",
        shown="the base model, at step 0",
    )
