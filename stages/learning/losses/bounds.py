"""What bounds the clipped loss."""

from typing import NamedTuple


class Bounds(NamedTuple):
    """Of the ratio π/μ in the clipped loss: it counts between 1 − low and 1 + high, and for A < 0 up to `dual` (> 1);
    dual None: without that end."""

    low: float = 0.2
    high: float = 0.3
    dual: float | None = None


DEFAULT_BOUNDS = Bounds()
