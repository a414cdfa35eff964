"""How many rollouts, and how they are sampled."""

from dataclasses import dataclass

from stages.parameters.option import option
from stages.parameters.sampling import Sampling


@dataclass(frozen=True)
class RolloutParams:
    """The options of `rollout`."""

    samples: int = option(5, "answers to each question.", symbol="N", minimum=1)
    sampling: Sampling = Sampling()
