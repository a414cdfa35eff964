"""λ(t): how much of the Solver's reward is the step reward."""

import numpy as np


def step_weight(step: np.ndarray, total_steps: int = 2500, warmup: float = 0.3, maximum: float = 0.7) -> np.ndarray:
    """λ(t) = 0 until t/T = h, then linear to λ_max at T, constant after.   [M]

    step [M]: t, from 1; T total_steps; h warmup, a share of T; λ_max maximum.
    """
    if warmup >= 1:
        return np.where(step >= total_steps, maximum, 0.0)
    return maximum * np.clip((step / total_steps - warmup) / (1 - warmup), 0.0, 1.0)
