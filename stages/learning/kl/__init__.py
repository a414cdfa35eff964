"""Divergences of the policy from the reference, exact over the vocabulary, a file a direction.

To add one, write its file with a function `divergence` and put its name here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Kl = Literal["reverse", "forward"]
Rule = Callable[["Tensor", "Tensor", "Tensor", "Tensor", "Tensor"], "tuple[Tensor, Tensor]"]


def load(name: Kl) -> Rule:
    """Of log π and log π_ref [n, V] float, both overwritten, −∞ at the forbidden tokens [F] int64, and of scale and
    pull [n]: KL [n], and the gradient [n, V]

        scale · ∂KL/∂z + pull · π,   z the logits of π

    whose second part is all but one entry a row of −pull · ∂log π(y)/∂z, and taken here needs no tensor of its own.
    """
    module: Any = import_module(f"stages.learning.kl.{name}")
    return module.divergence
