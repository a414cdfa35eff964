"""Losses of a sampled token, a file a rule: plain tensors in, the loss and its exact slope in log π out.

To add one, write its file with a function `token_loss` and put its name here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from stages.learning.losses.bounds import Bounds
    from stages.learning.losses.token_loss import TokenLoss

Loss = Literal["policy-gradient", "clip", "sft", "dpo"]
Rule = Callable[["Tensor", "Tensor", "Tensor", "Bounds"], "TokenLoss"]


def load(name: Loss) -> Rule:
    """Of log π(y), log μ(y) and A, [n] float each, and the bounds of `clip`: the loss of each token."""
    module: Any = import_module(f"stages.learning.losses.{name.replace('-', '_')}")
    return module.token_loss
