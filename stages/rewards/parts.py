"""A row's credit as its columns have it: of each part, and the token where the part begins."""

import math
from collections.abc import Sequence


def broken_parts(credit: Sequence[float | None], begins: Sequence[int | None], tokens: int) -> str | None:
    """What is wrong with the credit of parts that are to tile so many `tokens`; None where nothing is."""
    if len(credit) != len(begins) or not all(value is not None and math.isfinite(value) for value in credit):
        return "its step_credit is not one finite number for each of its step_tokens"
    known = [begin for begin in begins if begin is not None]
    if not begins or len(known) != len(begins) or known[0] != 0 or known != sorted(known) or known[-1] >= tokens:
        return f"its step_tokens do not ascend from 0 within its {tokens} tokens"
    return None


def per_token(credit: Sequence[float], begins: Sequence[int], tokens: int) -> list[float]:
    """Of each token, that of its part   [tokens]"""
    ends = [*begins[1:], tokens]
    return [value for value, begin, end in zip(credit, begins, ends, strict=True) for _ in range(begin, end)]
