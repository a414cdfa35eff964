"""An iteration in a few numbers, and whether the last ones say that the run has collapsed."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import pyarrow as pa

from stages import shards
from stages.contract import ANSWER, METRICS, PROPOSER, SCORED, SOLVER
from stages.evaluation.scores import accuracy, summarize
from stages.policy import METRICS_FILE, read_state

PATIENCE = 3  # iterations in a row that have to look collapsed
NO_ENTROPY = 0.01  # nats
KL_BOUND = 50  # times its target
UNPARSED = 0.9  # share of the answers, or of the questions

_ROWS = pa.schema(
    [SCORED.field(name) for name in ("group_id", "role", "pass", "question", "answer", "reward", "density", "entropy")]
)


@dataclass(frozen=True)
class Figures:
    """The means over an iteration, under the names of the columns they are means of; None where there is nothing to
    take the mean of. `reward` is the Solver's, `kl` and `kl_coef` too, `density` that of its answers; `entropy` is that
    of groups of several answers; `unparsed` and `unasked` are shares of the answers that have none and of the proposals
    without a question; `accuracy` is that of the benchmark, where it was asked."""

    step: int
    reward: float | None
    density: float | None
    entropy: float | None
    kl: float | None
    kl_coef: float | None
    unparsed: float | None
    unasked: float | None
    accuracy: float | None
    kl_target: float

    def to_json(self) -> dict[str, float | int | None]:
        return asdict(self)


def read_figures(folder: Path) -> Figures:
    """Those of a finished iteration. Raises DataError for a file that is damaged."""
    rows = [row for batch in shards.read_batches(folder / "scored.parquet", _ROWS) for row in batch.to_pylist()]
    solver = [row for row in rows if row["role"] == SOLVER]
    answers = [row for row in solver if (row["pass"] or ANSWER) == ANSWER]
    proposer = [row for row in rows if row["role"] == PROPOSER]
    sampled = Counter(row["group_id"] for row in answers)
    state = read_state(folder / "policy")
    metrics = shards.read_table(folder / "policy" / METRICS_FILE, METRICS).to_pylist()
    learned = [row for row in metrics if row["role"] == SOLVER]
    evaluated = folder / "eval.parquet"
    return Figures(
        step=state.step,
        reward=_mean([row["reward"] for row in solver]),
        density=_mean([row["density"] for row in answers]),
        entropy=_mean([row["entropy"] for row in proposer if sampled[row["group_id"]] != 1]),  # one agrees with itself
        kl=_mean([row["kl"] for row in learned]),
        kl_coef=learned[-1]["kl_coef"] if learned else None,
        unparsed=_mean([row["answer"] is None for row in answers]),
        unasked=_mean([row["question"] is None for row in proposer]),
        accuracy=accuracy(summarize(evaluated)) if evaluated.is_file() else None,
        kl_target=state.lineage.params["kl_target"],
    )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def collapse(iterations: Sequence[Figures]) -> str | None:
    """What has gone wrong in all of the last PATIENCE iterations, and what to change; None when nothing has."""
    last = iterations[-PATIENCE:]
    if len(last) < PATIENCE:
        return None
    if all(_at_least(each.unasked, UNPARSED) for each in last):
        return (
            "the Proposer asks nothing: its proposals have no question tag. Look at them with `ireasoner inspect`; the "
            "model may need another prompt ([propose] prompt) or more tokens ([propose] max-tokens)"
        )
    if all(_at_least(each.unparsed, UNPARSED) for each in last):
        return (
            "the Solver's answers cannot be parsed: its rollouts have no answer tag. Look at them with `ireasoner "
            "inspect`; the model may need another prompt ([rollout] prompt) or more tokens ([rollout] max-tokens)"
        )
    if all(each.kl is not None and not each.kl <= KL_BOUND * each.kl_target for each in last):
        return (
            f"the KL from the base model is more than {KL_BOUND} times its target. Go back to an earlier policy with a "
            "lower [update] lr, or a higher kl-start and kl-min"
        )
    if all(each.entropy is not None and each.entropy < NO_ENTROPY for each in last):
        return (
            "the Solver's answers have no entropy left: all rollouts agree, and nothing is learned from that. Go back "
            "to an earlier policy with a lower [update] lr or a higher kl-min, or take a pool with harder images"
        )
    return None


def _at_least(value: float | None, bound: float) -> bool:
    return value is not None and value >= bound and math.isfinite(value)
