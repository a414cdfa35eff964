"""Reasoning steps as vectors: `static` needs the embedding table alone, `hidden` runs the policy.

An embedder takes steps of a table of trajectories and returns [S, width] float32, of which only directions count; zero
where there is nothing to embed.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

TOKENS_PER_STEP = 64  # the first so many represent it


class Step(NamedTuple):
    """A reasoning step: its row in a table, where in the row's completion it begins, and its text."""

    row: int
    start: int
    text: str


class StepEmbedder(Protocol):
    def embed(self, steps: Sequence[Step], block: pa.Table) -> np.ndarray:
        """[S, width], float32, of `steps` of the trajectories in `block`."""
        ...
