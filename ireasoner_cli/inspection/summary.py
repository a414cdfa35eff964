"""What a path is, and its figures: counts and distributions, from its columns in batches.

Looks where no stage may: into sets of parts that are not whole yet, and into the chunks of one that is being written.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ireasoner_cli.inspection.distribution import Distribution
from ireasoner_cli.runs import Iteration, find_iterations
from stages import shards
from stages.contract import ANSWER, BENCHMARK, BENCHMARK_OPTIONAL, CREDIT, EVALUATED, METRICS, SCORED, SOLVER, Metadata
from stages.errors import DataError
from stages.policy import METRICS_FILE, STATE_FILE, PolicyState, fingerprint, read_state

KEYS = pa.schema([SCORED.field(name) for name in ("group_id", "role", "sample_index")])
_KEY_NAMES = set(KEYS.names)
FIGURES = pa.schema(
    [
        *(
            column
            for column in SCORED
            if column.name not in _KEY_NAMES | {"images", "prompt", "completion", "logprobs"}
        ),
        CREDIT.field("step_credit"),
    ]
)
ASKED = pa.schema([BENCHMARK.field("id"), BENCHMARK.field("answers")])
ASKED_OPTIONAL = pa.schema([BENCHMARK_OPTIONAL.field("type"), BENCHMARK_OPTIONAL.field("choices")])
NONE = pa.schema([])
OF_METRICS = (
    *("loss", "kl", "kl_coef", "grad_norm"),
    *("importance_weight", "effective_sample_size", "clipped"),
)
BY_TYPE = "score, "  # and the type


@dataclass
class Summary:
    """A shard, a policy or a benchmark at a glance. `state` says what is still missing, empty when nothing is."""

    path: Path
    kind: str
    state: str = ""
    metadata: Metadata | None = None
    counts: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    distributions: dict[str, Distribution] = field(default_factory=dict)
    policy: PolicyState | None = None
    fingerprint: str | None = None

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {"path": str(self.path), "kind": self.kind, "state": self.state or "finished"}
        if self.metadata:
            content["metadata"] = asdict(self.metadata)
        if self.policy:
            content["step"] = self.policy.step
            content["sha256"] = self.fingerprint
        content["counts"] = self.counts
        if self.rejected:
            content["rejected"] = self.rejected
        content["distributions"] = {name: values.to_json() for name, values in self.distributions.items()}
        return content


def summarise(path: Path) -> Summary | list[tuple[Iteration, Summary]]:
    """The summary of a shard (a file or a directory of parts), a policy, its metrics or a benchmark; of a run's
    folder, that of every iteration's furthest shard.

    Raises UsageError when there is nothing at `path`, DataError when it is nothing that is known.
    """
    if (path / STATE_FILE).is_file():
        return _policy(path)
    if iterations := find_iterations(path):
        return [(iteration, _shard(iteration.furthest)) for iteration in iterations]
    return _shard(path)


def _shard(path: Path) -> Summary:
    """Reads once more when a stage publishes, and so clears its chunks away, just as they are being read."""
    while True:
        found = shards.find_output(path)
        try:
            return _read_shard(path, found)
        except DataError:
            if shards.find_output(path) == found:
                raise


def _read_shard(path: Path, found: shards.Found) -> Summary:
    columns = set(shards.schema_of(found.readable[0]).names)
    if columns >= set(METRICS.names):
        return _with_figures(Summary(path, "metrics", _state(found)), found, METRICS, _metrics_figures)
    if columns >= set(BENCHMARK.names):
        asked = Summary(path, "benchmark", _state(found))
        return _with_figures(asked, found, ASKED, _benchmark_figures, ASKED_OPTIONAL)
    metadata = shards.read_metadata(found.readable[0])
    summary = Summary(path, metadata.stage, _state(found), metadata)
    if metadata.stage == "eval":
        _with_figures(summary, found, EVALUATED, _evaluation_figures)
        summary.distributions = dict(sorted(summary.distributions.items(), key=_worst_type_first))
        return summary
    return _with_figures(summary, found, KEYS, _trajectory_figures, FIGURES)


def _state(found: shards.Found) -> str:
    parts = [f"{found.missing} of {found.missing + len(found.files)} parts missing"] if found.missing else []
    if found.unfinished:
        parts.append(f"{len(found.unfinished)} unfinished chunk{'s' * (len(found.unfinished) > 1)} read too")
    return ", ".join(parts)


Figures = dict[str, list[np.ndarray]]


def _with_figures(
    summary: Summary,
    found: shards.Found,
    schema: pa.Schema,
    figures_of: Callable[[pa.RecordBatch, Summary, Figures], None],
    optional: pa.Schema = NONE,
) -> Summary:
    """Goes through all rows a batch at a time; only one number a row and quantity is kept."""
    figures: Figures = {}
    figures_of(pa.RecordBatch.from_pylist([], pa.schema([*schema, *optional])), summary, figures)  # names the counts
    for file in found.readable:
        for batch in shards.read_batches(file, schema, optional):
            figures_of(batch, summary, figures)
    summary.distributions = {
        name: distribution for name, chunks in figures.items() if len((distribution := Distribution.of(chunks)).values)
    }
    return summary


def _count(summary: Summary, **numbers: int) -> None:
    for name, number in numbers.items():
        summary.counts[name] = summary.counts.get(name, 0) + number


def _add(figures: Figures, name: str, values: pa.Array) -> None:
    figures.setdefault(name, []).append(pc.cast(values.drop_null(), pa.float64()).to_numpy(zero_copy_only=False))


def _trajectory_figures(batch: pa.RecordBatch, summary: Summary, figures: Figures) -> None:
    solver = pc.fill_null(pc.equal(batch["role"], SOLVER), False)
    rollouts, proposals = batch.filter(solver), batch.filter(pc.invert(solver))
    others, scored = 0, summary.metadata if summary.metadata and summary.metadata.stage == "score" else None
    if scored:  # as `score` sums up: of what is not rewarded there is but a count
        rewarded = pc.is_in(pc.fill_null(rollouts["pass"], ANSWER), pa.array(scored.rewarded))
        others, rollouts = len(rollouts) - (pc.sum(rewarded).as_py() or 0), rollouts.filter(rewarded)
    _count(
        summary,
        groups=len(proposals),
        questions=len(proposals) - proposals["question"].null_count,
        rollouts=len(rollouts),
        cut_short=pc.sum(pc.equal(rollouts["finish_reason"], "length")).as_py() or 0,
        **({"rows_of_other_passes": others} if others else {}),
    )
    for reason, number in Counter(proposals["reject_reason"].drop_null().to_pylist()).items():
        summary.rejected[reason] = summary.rejected.get(reason, 0) + number
    if scored:
        _count(summary, answered=len(rollouts) - rollouts["answer_key"].null_count)
        for name in ("reward", "r_answer", "r_step", "answer_prob", "density"):
            _add(figures, name, rollouts[name])
        _add(figures, "steps", pc.list_value_length(rollouts["steps"]))
        _add(figures, "step_similarity", pc.list_flatten(rollouts["step_similarity"]))
        _add(figures, "step_credit", pc.list_flatten(rollouts["step_credit"]))
        _add(figures, "entropy", proposals["entropy"])
        _add(figures, "proposer_reward", proposals["reward"])
    _add(figures, "tokens", pc.list_value_length(rollouts["token_ids"]))
    _add(figures, "proposal_tokens", pc.list_value_length(proposals["token_ids"]))


def _evaluation_figures(batch: pa.RecordBatch, summary: Summary, figures: Figures) -> None:
    _count(
        summary,
        questions=pc.sum(pc.equal(batch["sample_index"], 0)).as_py() or 0,
        answers=len(batch),
        unparsed=batch["prediction"].null_count,
        unscored=batch["score"].null_count,
        cut_short=pc.sum(pc.equal(batch["finish_reason"], "length")).as_py() or 0,
    )
    _add(figures, "score", batch["score"])
    _add(figures, "tokens", batch["tokens"])
    for kind in pc.unique(batch["type"].drop_null()).to_pylist():
        _add(figures, f"{BY_TYPE}{kind}", batch.filter(pc.equal(batch["type"], kind))["score"])


def _worst_type_first(named: tuple[str, Distribution]) -> tuple[bool, float]:
    """For sorting: what is of all types, then the types by their mean score."""
    name, distribution = named
    by_type = name.startswith(BY_TYPE)
    return by_type, float(distribution.values.mean()) if by_type else 0.0


def _metrics_figures(batch: pa.RecordBatch, summary: Summary, figures: Figures) -> None:
    _count(summary, optimizer_steps=len(batch))
    for role in pc.unique(batch["role"].drop_null()).to_pylist():
        rows = batch.filter(pc.equal(batch["role"], role))
        for name in OF_METRICS:
            _add(figures, f"{role} {name}", rows[name])
        _add(figures, f"{role} advantages", pc.list_flatten(rows["advantages"]))


def _benchmark_figures(batch: pa.RecordBatch, summary: Summary, figures: Figures) -> None:
    _count(summary, questions=len(batch), with_choices=len(batch) - batch["choices"].null_count)
    for kind, number in Counter(batch["type"].drop_null().to_pylist()).items():
        _count(summary, **{f"type {kind}": number})
    _add(figures, "answers a question", pc.list_value_length(batch["answers"]))


def _policy(path: Path) -> Summary:
    state = read_state(path)
    summary = Summary(path, "policy", metadata=state.lineage, policy=state, fingerprint=fingerprint(path))
    metrics = path / METRICS_FILE
    if metrics.is_file():
        _with_figures(summary, shards.Found([metrics], 0, []), METRICS, _metrics_figures)
    return summary
