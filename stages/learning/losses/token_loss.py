"""What a loss rule gives, and what bounds it."""

from typing import NamedTuple

from torch import Tensor


class Bounds(NamedTuple):
    """Of the ratio π/μ in the clipped loss: it counts between 1 − low and 1 + high, and for A < 0 up to `dual` (> 1);
    dual None: without that end."""

    low: float
    high: float
    dual: float | None


class TokenLoss(NamedTuple):
    """[n] each: the loss; gain, what log π(y) is worth; weight, the importance weight, by which its worth is scaled;
    clipped (bool), whether the rule has cut π/μ off there."""

    loss: Tensor
    gain: Tensor
    weight: Tensor
    clipped: Tensor

    @property
    def slope(self) -> Tensor:
        """∂loss/∂log π(y) = −gain · weight   [n]"""
        return -self.gain * self.weight
