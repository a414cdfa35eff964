"""A run in numbers: a value a group and quantity, from all scored rows in batches; KL and evaluations beside them."""

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ireasoner_cli.runs import Iteration, find_evaluations, find_iterations
from stages import shards
from stages.contract import ANSWER, METRICS, PROPOSER, SCORED, SOLVER, Metadata, Row
from stages.errors import DataError, UsageError
from stages.evaluation import scores
from stages.learning.drift import too_far
from stages.policy import read_state
from stages.rewards.leave_one_out import leave_one_out

COLUMNS = pa.schema(
    [column for column in SCORED if column.name not in ("images", "prompt", "completion", "token_ids", "logprobs")]
)
POSITIONS = 16  # step positions that are looked at, at most
OF_OPTIMIZER = (
    *("step", "kl", "kl_coef", "grad_norm"),
    *("importance_weight", "effective_sample_size", "clipped"),
)
DIVERGENT = 6  # groups whose rollouts are shown step by step


@dataclass
class Divergence:
    """The leave-one-out similarities of a group's dominant rollouts: samples [n], similarity [n, p], NaN where the
    position does not count or the rollout does not have it."""

    group_id: str
    step: int
    samples: list[int]
    similarity: np.ndarray

    @property
    def mean(self) -> float:
        return float(np.nanmean(1 - self.similarity))


@dataclass(frozen=True)
class Candidate:
    """A group that the gallery could show."""

    group_id: str
    iteration: int
    reward: float
    entropy: float
    divergence: float


@dataclass
class Evaluations:
    """One benchmark asked in one way, over the iterations: step, accuracy and its 95 % interval, a list each."""

    label: str
    step: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    questions: int = 0


@dataclass
class Run:
    """A run's figures. metadata: of the last scored shard; learning: of the last policy, None before there is one;
    groups: name → a value a group, in order of `step`; optimizer: role → name → a value an optimizer step;
    drifted: of each iteration and role that was learned too far from where it was sampled, in words.
    disagreement [groups, POSITIONS]: mean 1 − leave-one-out cosine, NaN where a position does not count."""

    path: Path
    name: str
    iterations: list[Iteration]
    metadata: Metadata
    learning: Metadata | None
    starts: list[int]
    groups: dict[str, np.ndarray]
    disagreement: np.ndarray
    optimizer: dict[str, dict[str, np.ndarray]]
    drifted: list[str]
    evaluations: list[Evaluations]
    divergent: list[Divergence]
    candidates: list[Candidate]
    rollouts: int
    unfinished: list[str]


def read_run(path: Path, name: str) -> Run:
    """Raises UsageError when `path` holds no run, DataError when nothing in it is scored yet or a shard is damaged."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    iterations = find_iterations(path)
    if not iterations:
        raise UsageError(f"{path}: not a run's folder; it has no iteration (such as it0001/) and no shard")
    scored = [iteration for iteration in iterations if scored_files(iteration)]
    if not scored:
        raise DataError(f"{path}: nothing in this run is scored yet; `ireasoner score` comes first")
    reader = _Reader()
    starts = [
        reader.read(scored_files(iteration), place, last=place == len(scored) - 1)
        for place, iteration in enumerate(scored)
    ]
    if not reader.disagreement:
        raise DataError(f"{path}: its scored shards hold no groups")
    order = np.argsort(np.array(reader.values["step"]), kind="stable")
    return Run(
        path=path,
        name=name,
        iterations=scored,
        metadata=shards.read_metadata(scored_files(scored[-1])[0]),
        learning=next((read_state(policy).lineage for each in reversed(iterations) if (policy := each.policy)), None),
        starts=[start for start in starts if start is not None],
        groups={key: np.array(values, dtype=np.float64)[order] for key, values in reader.values.items()},
        disagreement=np.array(reader.disagreement).reshape(-1, POSITIONS)[order],
        optimizer=_optimizer(iterations),
        drifted=list(_drifted(iterations)),
        evaluations=_evaluations(path, iterations),
        divergent=[each for *_, each in sorted(reader.divergent, key=lambda entry: entry[:2], reverse=True)],
        candidates=reader.candidates,
        rollouts=reader.rollouts,
        unfinished=[iteration.name for iteration in iterations if iteration not in scored],
    )


def scored_files(iteration: Iteration) -> list[Path]:
    """The finished files of the iteration's scored shard."""
    output = iteration.output("scored")
    return shards.find_output(output).files if output else []


class _Reader:
    """Goes through scored files and keeps, of each group, one number a quantity."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.disagreement: list[np.ndarray] = []
        self.divergent: list[tuple[float, int, Divergence]] = []  # a heap, the least divergent first
        self.candidates: list[Candidate] = []
        self.rollouts = 0

    def read(self, files: list[Path], iteration: int, last: bool) -> int | None:
        """Adds an iteration's groups, their rows of the passes that are rewarded; returns its first training step, None
        when it has no groups."""
        before = len(self.disagreement)
        rewarded = shards.read_metadata(files[0]).rewarded
        for rows in _groups(files):
            rollouts = [row for row in rows[1:] if (row["pass"] or ANSWER) in rewarded]
            self._add(rows[0], rollouts, iteration, last)
        return int(min(self.values["step"][before:])) if len(self.disagreement) > before else None

    def _add(self, proposal: Row, rollouts: list[Row], iteration: int, last: bool) -> None:
        self.rollouts += len(rollouts)
        loo, samples = _leave_one_out(rollouts)
        by_position = _nanmean(1 - loo, axis=0) if len(loo) else np.full(POSITIONS, np.nan)
        self.disagreement.append(by_position)
        similar = [value for row in rollouts for value in row["step_similarity"] or () if value is not None]
        own = {
            "step": proposal["step"],
            "asked": float(proposal["question"] is not None),
            "proposer_reward": proposal["reward"],
            "entropy": proposal["entropy"],
            "density": rollouts[0]["density"] if rollouts else None,
            "similarity": _mean(similar),
            "disagreement": float(_nanmean(by_position, axis=0)),
            **{
                name: _mean([row[name] for row in rollouts]) for name in ("reward", "r_answer", "r_step", "step_weight")
            },
            "positions": float(np.isfinite(by_position).sum()) if rollouts else None,
            "steps": _mean([len(row["steps"] or ()) for row in rollouts]),
            "reasoning_words": _mean([_words(*(row["steps"] or ())) for row in rollouts]),
            "answer_words": _mean([_words(row["answer"]) for row in rollouts if row["answer"] is not None]),
            "unanswered": _mean([float(row["answer_key"] is None) for row in rollouts]),
            "cut_short": _mean([float(row["finish_reason"] == "length") for row in rollouts]),
        }
        for name, value in own.items():
            self.values.setdefault(name, []).append(np.nan if value is None else value)
        if not rollouts:
            return
        divergence = own["disagreement"]
        group, step = proposal["group_id"], proposal["step"]
        reward = np.nan if own["reward"] is None else own["reward"]
        self.candidates.append(Candidate(group, iteration, reward, proposal["entropy"] or 0.0, divergence))
        if last and np.isfinite(divergence):
            heapq.heappush(self.divergent, (divergence, -step, Divergence(group, step, samples, loo)))
            if len(self.divergent) > DIVERGENT:
                heapq.heappop(self.divergent)


def _groups(files: list[Path]) -> Iterator[list[Row]]:
    """The rows of each group, the proposal first."""
    for file in files:
        for group in shards.whole_groups([file], COLUMNS):
            rows: list[Row] = group.to_pylist()
            roles = [row["role"] == PROPOSER for row in rows]
            if any(row["step"] is None for row in rows) or roles != [True, *[False] * (len(rows) - 1)]:
                raise DataError(f"{file}: group {rows[0]['group_id']} lacks its step or its proposer row")
            yield rows


def _leave_one_out(rollouts: list[Row]) -> tuple[np.ndarray, list[int]]:
    """Similarities [n, POSITIONS] of the dominant rollouts to the prototype of the others of their pass, and their
    places in the group."""
    members = [place for place, row in enumerate(rollouts) if row["dominant"] and row["step_similarity"]]
    matrix = np.full((len(members), POSITIONS), np.nan)
    for index, place in enumerate(members):
        values = rollouts[place]["step_similarity"][:POSITIONS]
        matrix[index, : len(values)] = [np.nan if value is None else value for value in values]
    passes = np.array([rollouts[place]["pass"] or ANSWER for place in members])
    for own in np.unique(passes):
        for position in range(POSITIONS):
            there = np.isfinite(matrix[:, position]) & (passes == own)
            if there.sum() >= 2:
                matrix[there, position] = leave_one_out(matrix[there, position])
    return matrix, members


def _words(*texts: str) -> float:
    return float(sum(len(text.split()) for text in texts))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _nanmean(values: np.ndarray, axis: int) -> Any:
    """Mean over `axis` of what is known; NaN, without a warning, where nothing is."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis), known.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _optimizer(iterations: list[Iteration]) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, list[float]]] = {}
    for iteration in iterations:
        if iteration.metrics:
            for batch in shards.read_batches(iteration.metrics, METRICS):
                for row in batch.to_pylist():
                    own = found.setdefault(row["role"], {})
                    for name in OF_OPTIMIZER:
                        value = row[name]
                        own.setdefault(name, []).append(np.nan if value is None else float(value))
    return {role: {name: np.array(values) for name, values in own.items()} for role, own in found.items()}


def _drifted(iterations: list[Iteration]) -> Iterator[str]:
    for iteration in iterations:
        rows = shards.read_table(iteration.metrics, METRICS).to_pylist() if iteration.metrics else []
        for role in (SOLVER, PROPOSER):
            if reason := too_far([row for row in rows if row["role"] == role]):
                yield f"{iteration.name}, {role}: {reason}"


def _evaluations(path: Path, iterations: list[Iteration]) -> list[Evaluations]:
    """What was evaluated alike is one line: the same task of the same files with the same parameters."""
    alike: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for file, metadata in find_evaluations(path, iterations):
        asked_so = (metadata.inputs, metadata.seed, json.dumps(metadata.params, sort_keys=True))
        for task, questions in scores.read_run(file).tasks.items():
            if (found := scores.summary(questions))["questions"]:
                alike.setdefault((f"{task}, {_how(metadata)}", *asked_so), {})[metadata.policy.step] = found
    lines = []
    for (label, *_), by_step in alike.items():
        line = Evaluations(label)
        for step, found in sorted(by_step.items()):
            line.step.append(step)
            line.accuracy.append(found["accuracy"])
            line.low.append(0.0 if found["low"] is None else found["low"])  # a single cluster says nothing of others
            line.high.append(1.0 if found["high"] is None else found["high"])
            line.questions = max(line.questions, found["questions"])
        lines.append(line)
    return sorted(lines, key=lambda line: -len(line.step))


def _how(metadata: Metadata) -> str:
    """How questions were answered."""
    samples, temperature = metadata.params.get("samples") or 1, metadata.params.get("temperature") or 0
    how = "greedy" if not temperature else f"T = {temperature:g}"
    return how + (f", {samples} samples" if samples != 1 else "")
