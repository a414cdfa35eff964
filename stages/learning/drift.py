"""What the importance weights say of how far the policy has gone from the one that was sampled from."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

# What one update of lag was measured to keep within while it cost no accuracy.
WEIGHT_OFF, LEAST_ESS = 0.05, 0.99


def effective_sample_size(tokens: int, excess: float, squares: float) -> float:
    """(Σw)² / (n · Σw²) of n tokens, as a share: 1 where all have the same weight w.

    excess Σ(w − 1) and squares Σ(w − 1)², which keep the digits that w near 1 would lose.
    """
    weights_squared = tokens + 2 * excess + squares
    if not 0 < weights_squared < math.inf:  # as rounded: no token has any weight, or one has all
        return 0.0
    return min(1.0, (tokens + excess) ** 2 / (tokens * weights_squared))


def too_far(steps: Sequence[dict[str, Any]]) -> str | None:
    """How a role's optimizer steps, rows of metrics, leave on average what was harmless; None where they do not."""
    steps = [row for row in steps if row["effective_sample_size"] is not None]  # another tool's may lack it
    if not steps:
        return None
    tokens = [row["tokens"] for row in steps]
    weight, ess, clipped = (
        fmean((row[name] for row in steps), tokens)
        for name in ("importance_weight", "effective_sample_size", "clipped")
    )
    if abs(weight - 1) <= WEIGHT_OFF and ess >= LEAST_ESS:
        return None
    return (
        f"the importance weight is {weight:.3f} on average, the effective sample size {ess:.1%}, and {clipped:.2%} of "
        f"the tokens are clipped, where 1 ± {WEIGHT_OFF:g} and {LEAST_ESS:.0%} were measured to be harmless"
    )
