"""The answer reward: self-consistency, shortened by a length penalty."""

import numpy as np


def answer_reward(
    prob: np.ndarray,
    words: np.ndarray,
    exponent: float = 0.7,
    length_penalty: float = 0.05,
    length_limit: int = 64,
) -> np.ndarray:
    """r_ans = p(a)^α · (1 − η·ℓ), ℓ = clip((words − W)/W, 0, 1)   [R]

    prob [R]: p(a|x,q), 0 without an answer; words [R]: words before the answer tag; α exponent, η length_penalty,
    W length_limit.
    """
    excess = np.clip((words - length_limit) / length_limit, 0.0, 1.0)
    return np.where(prob > 0, prob**exponent * (1 - length_penalty * excess), 0.0)
