"""Counts and running means over the blocks, for the closing line."""

import numpy as np
import pyarrow as pa


class Tally:
    """Takes the score columns of one block after the other."""

    def __init__(self) -> None:
        self._rollouts = self._answered = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, columns: pa.Table) -> None:
        solver = np.array([weight is not None for weight in columns["step_weight"].to_pylist()])
        for name, column, rows in (
            ("reward", "reward", solver),
            ("r_answer", "r_answer", solver),
            ("r_step", "r_step", solver),
            ("proposer_reward", "reward", ~solver),
            ("entropy", "entropy", ~solver),
        ):
            values = columns[column].to_numpy(zero_copy_only=False)[rows].astype(np.float64)
            values = values[~np.isnan(values)]
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
            self._counts[name] = self._counts.get(name, 0) + len(values)
        self._rollouts += int(solver.sum())
        self._answered += len(columns) - columns["answer_key"].null_count

    def summary(self) -> dict[str, float | int]:
        means = {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}
        return {"rollouts": self._rollouts, "answered": self._answered, **means}
