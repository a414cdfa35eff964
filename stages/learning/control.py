"""What adapts from group to group and from step to step: the baseline and the KL coefficient. Plain numbers."""

import math
from dataclasses import dataclass

MOMENTUM = 0.9
KL_GAIN = 0.1
KL_COEF_MAX = 100.0


@dataclass(frozen=True)
class Baseline:
    """b: exponential moving average of the groups' mean reward, momentum 0.9, bias-corrected."""

    average: float = 0.0
    count: int = 0

    def value(self, first: float) -> float:
        """b as it stands; before any group was seen, `first`, the mean reward of the first one."""
        return self.average / (1 - MOMENTUM**self.count) if self.count else first

    def after(self, mean_reward: float) -> "Baseline":
        return Baseline(MOMENTUM * self.average + (1 - MOMENTUM) * mean_reward, self.count + 1)


def next_kl_coef(kl_coef: float, kl: float, target: float, minimum: float) -> float:
    """β · exp(0.1 · clip((KL − κ)/κ, −1, 5)), kept in [minimum, 100]."""
    error = min(max((kl - target) / target, -1.0), 5.0)
    return min(max(kl_coef * math.exp(KL_GAIN * error), minimum), KL_COEF_MAX)
