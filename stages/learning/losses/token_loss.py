"""What a loss rule gives."""

from typing import NamedTuple

from torch import Tensor


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
