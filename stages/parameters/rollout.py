"""How many rollouts, of what, and how they are sampled."""

from dataclasses import dataclass
from typing import Literal

from stages.parameters.option import option
from stages.parameters.sampling import Sampling

PASS = "Pass"

AdapterChoice = Literal["solver", "base", "teacher"]


@dataclass(frozen=True)
class RolloutParams:
    """The options of `rollout`."""

    samples: int = option(5, "answers to each question, or of each row that they are made of.", symbol="N", minimum=1)
    pass_name: str = "answer"  # `--pass`, by which the command line also finds the pass's own settings
    of: str | None = option(
        None,
        "Ask once more of each row of this earlier pass: what it has in a tag <TAG> goes where the prompt holds {TAG}, "
        "and all of it where it holds {completion}.",
        metavar="PASS",
        shown=False,
        panel=PASS,
    )
    no_image: bool = option(False, "Ask without the pictures.", panel=PASS)
    view: str | None = option(
        None,
        "Change the pictures on the way to the model, each row's by its own seed: resize:PIXELS, "
        "jitter:BRIGHTNESS,HUE, mask:SHARE, pad, rotate:DEGREES, crop:SHARE, turn:DEGREES, tiles:ORDER; with + "
        "between, one after the other, with | one of them.",
        shown=False,
        panel=PASS,
    )
    adapter: AdapterChoice = option(
        "solver", "Who answers: the policy, the base model, or the policy's slow teacher.", panel=PASS
    )
    learn_prompt: str | None = option(
        None,
        "A prompt, as --prompt, on which the rows are learned in place of the one that they were sampled on.",
        metavar="FILE",
        shown=False,
        panel=PASS,
        recorded=False,
    )
    sampling: Sampling = Sampling()
