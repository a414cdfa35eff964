"""Counts and running means over the blocks, for the closing line."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import ANSWER
from stages.scoring.chosen import Chosen
from stages.scoring.parents import dropped, verdict_passes


class Tally:
    """Takes the rows of one block after the other."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        self._rollouts = self._answered = self._dropped = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, columns: pa.Table) -> None:
        """The score columns, and of the trajectories' `pass` and `completion`."""
        proposer = pc.is_null(columns["step_weight"]).to_numpy(zero_copy_only=False)
        names = pc.fill_null(columns["pass"], ANSWER).to_numpy(zero_copy_only=False)
        solver = ~proposer & np.isin(names.astype(str), self._chosen.passes.rewarded)
        for name, column, rows in (
            ("reward", "reward", solver),
            ("r_answer", "r_answer", solver),
            ("r_step", "r_step", solver),
            ("proposer_reward", "reward", proposer),
            ("entropy", "entropy", proposer),
        ):
            values = columns[column].to_numpy(zero_copy_only=False)[rows].astype(np.float64)
            values = values[~np.isnan(values)]
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
            self._counts[name] = self._counts.get(name, 0) + len(values)
        self._rollouts += int(solver.sum())
        self._dropped += dropped(columns, self._chosen) if verdict_passes(self._chosen) else 0
        self._answered += int(np.sum(solver & pc.is_valid(columns["answer_key"]).to_numpy(zero_copy_only=False)))

    def summary(self) -> dict[str, float | int]:
        means = {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}
        counts = {"rollouts": self._rollouts, "answered": self._answered}
        counts |= {"verdicts_dropped": self._dropped} if verdict_passes(self._chosen) else {}
        return {**counts, **means}
