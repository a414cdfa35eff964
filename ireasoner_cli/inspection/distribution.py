"""The values of one quantity, in a line: a histogram of block characters, range, mean and median."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCKS = " ▁▂▃▄▅▆▇█"
BINS = 24


@dataclass(frozen=True)
class Distribution:
    """values [n] float64, finite; n may be 0."""

    values: np.ndarray

    @staticmethod
    def of(chunks: Sequence[np.ndarray]) -> "Distribution":
        """Joins chunks [n_i]; what is no finite number is left out."""
        values = np.concatenate([np.asarray(chunk, dtype=np.float64) for chunk in chunks]) if chunks else np.empty(0)
        return Distribution(values[np.isfinite(values)])

    def histogram(self, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
        """Counts [b] and edges [b+1]: a bin for each whole number where that gives at most `bins`, else `bins`."""
        low, high = self.values.min(), self.values.max()
        whole = np.all(self.values == np.round(self.values)) and high - low < bins
        edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, bins + 1)
        if np.any(np.diff(edges) <= 0):  # one value only, or values closer than numbers can be told apart
            edges = np.array([low - 0.5, high + 0.5])
        counts, edges = np.histogram(self.values, edges)
        return counts, edges

    def bars(self, bins: int = BINS) -> str:
        """The histogram as one character a bin; any value at all shows."""
        if not len(self.values):
            return ""
        counts, _ = self.histogram(bins)
        heights = np.where(counts > 0, np.maximum(1, np.round(counts / counts.max() * (len(BLOCKS) - 1))), 0)
        return "".join(BLOCKS[int(height)] for height in heights)

    def to_json(self) -> dict[str, Any]:
        if not len(self.values):
            return {"count": 0}
        counts, edges = self.histogram()
        return {
            "count": len(self.values),
            "mean": float(self.values.mean()),
            "min": float(self.values.min()),
            "median": float(np.median(self.values)),
            "max": float(self.values.max()),
            "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        }
