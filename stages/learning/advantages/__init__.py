"""Advantages: what the rewards of a group say of each of its trajectories, a file a rule. Plain numbers.

To add one, write its file with a function `advantages` and put its name here.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal

Advantage = Literal["ema", "mean", "grpo", "leave-one-out", "none"]
COMPARING: tuple[Advantage, ...] = ("mean", "grpo", "leave-one-out")  # those that need more than one row
Rule = Callable[[Sequence[float], float], list[float]]


def load(name: Advantage) -> Rule:
    """Of rewards [N ≥ 1], those of one role and pass in one group, and the moving-average baseline b: A [N]."""
    module: Any = import_module(f"stages.learning.advantages.{name.replace('-', '_')}")
    return module.advantages
