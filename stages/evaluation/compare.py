"""Comparing eval runs on the same questions: by how much each differs from the first, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from stages import tasks
from stages.errors import DataError
from stages.evaluation.pooling import pooled_difference, pooled_estimate, t_test
from stages.evaluation.scores import Answered, Run
from stages.evaluation.statistics import ALPHA, Difference, Estimate, difference_interval, estimate, holm, paired
from stages.shards import differences

PAPER = ("Qwen2.5-VL-7B", "EvoLMM", "iReasoner")  # the columns of `Task.published`


@dataclass(frozen=True)
class TaskComparison:
    """One task in two runs. `p` of the difference is as tested, `adjusted_p` Holm's over all the comparisons made."""

    task: str
    base: Estimate
    other: Estimate
    difference: Difference
    adjusted_p: float = 1.0

    @property
    def verdict(self) -> str:
        """`better`, `worse` or, where the corrected test does not tell, an empty text."""
        if self.adjusted_p >= ALPHA:
            return ""
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """A run against the base, task by task, with the plain mean over the tasks of their differences and its interval
    (None for a single task). `settings` are the parameters, other than model and policy, in which the runs differ;
    `seeds` those of the runs that either side is pooled of."""

    base: str
    other: str
    tasks: list[TaskComparison]
    average: tuple[float, float, float] | None
    settings: list[str]
    seeds: tuple[int, ...] = ()

    def verdict(self) -> str:
        """One sentence: where the difference is more than chance, and how large it is over all."""
        unclear = f"no difference shown between {self.base} and {self.other} on"
        if self.average is None:
            [only] = self.tasks
            change = only.difference
            found = f"{self.other} is {only.verdict} than {self.base} on" if only.verdict else unclear
            over = f" over {len(self.seeds)} seeds" if self.seeds else ""
            size = _points(change.mean, change.low, change.high)
            return f"{found} {only.task}{over}: {size}, p = {only.adjusted_p:.2g}"
        named = {word: [task.task for task in self.tasks if task.verdict == word] for word in ("better", "worse")}
        counted = [f"{word} on {len(found)} ({', '.join(found)})" for word, found in named.items() if found]
        start = f"against {self.base}, {self.other} is {' and '.join(counted)}" if counted else f"{unclear} any"
        over = f" over {len(self.seeds)} seeds" if self.seeds else ""
        corrected = f"of {len(self.tasks)} tasks{over}, Holm-corrected at {100 * ALPHA:g} %"
        return f"{start} {corrected}; over all tasks {_points(*self.average)}"


def _points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def compare(base: Run, others: Sequence[Run]) -> list[Comparison]:
    """Each of `others` against `base`. Raises DataError when their questions are not the same, or the seeds of two that
    are pooled."""
    names = _names([base, *others])
    pairs = [_paired_tasks(base, other) for other in others]
    compared = [[_compare_task(task, *sides) for task, sides in pair.items()] for pair in pairs]
    adjusted = iter(holm([task.difference.p for found in compared for task in found]))
    return [
        Comparison(
            names[0],
            name,
            [replace(task, adjusted_p=next(adjusted)) for task in found],
            _average(list(pair.values())) if len(pair) > 1 else None,
            differences(base.metadata, other.metadata, ignore=("inputs", "model", "policy")),
            base.seeds or other.seeds,
        )
        for name, other, pair, found in zip(names[1:], others, pairs, compared, strict=True)
    ]


def _names(runs: Sequence[Run]) -> list[str]:
    """Short names where these tell the runs apart, otherwise their paths."""
    short = [run.path.name.removesuffix(".parquet") for run in runs]
    return short if len(set(short)) == len(short) else [str(run.path) for run in runs]


def pool(path: Path, runs: Mapping[int, Run]) -> Run:
    """Runs that differ in their seeds, two or more, as one. Raises DataError when their questions are not the same."""
    first, *others = runs.values()
    pairs = [_paired_tasks(first, other) for other in others]
    tasks = {}
    for task, (questions, _) in pairs[0].items():
        runs_of_it = [questions, *(pair[task][1] for pair in pairs)]
        tasks[task] = [_pooled(dict(zip(runs, same, strict=True))) for same in zip(*runs_of_it, strict=True)]
    return Run(path, first.metadata, tasks, tuple(runs))


def _pooled(same: Mapping[int, Answered]) -> Answered:
    """One question, of the runs with each seed: the samples of all of them."""
    return replace(
        next(iter(same.values())),
        scores=[score for each in same.values() for score in each.scores],
        predictions=[prediction for each in same.values() for prediction in each.predictions],
        truncated=sum(each.truncated for each in same.values()),
        by_seed={seed: each.score for seed, each in same.items()},
    )


Sides = tuple[list[Answered], list[Answered]]  # the scored questions of two runs, in the same order


def _paired_tasks(base: Run, other: Run) -> dict[str, Sides]:
    if base.tasks.keys() != other.tasks.keys():
        one_sided = sorted(base.tasks.keys() ^ other.tasks.keys())[0]
        raise DataError(f"{base.path} and {other.path} are of different tasks: only one has {one_sided}")
    if base.seeds and other.seeds and set(base.seeds) != set(other.seeds):
        alone = min(set(base.seeds) ^ set(other.seeds))
        raise DataError(f"{base.path} and {other.path} cannot be paired: only one has a run with seed {alone}")
    pairs = {task: _pair(task, base, other) for task in base.tasks}
    scored = {task: sides for task, sides in pairs.items() if sides[0]}
    if not scored:
        raise DataError(f"{base.path}: no question has a score")
    return scored


def _pair(task: str, base: Run, other: Run) -> Sides:
    where = f"{base.path} and {other.path} cannot be paired on {task}"
    known, found = (_by_id(task, run) for run in (base, other))
    if unpaired := known.keys() ^ found.keys():
        raise DataError(f"{where}: {len(unpaired)} questions are in one of them only, such as {min(unpaired)}")
    sides: Sides = ([], [])
    for question in base.tasks[task]:
        match = found[question.id]
        for field in ("image_sha256", "answers", "question"):
            if getattr(question, field) != getattr(match, field) and None not in (
                getattr(question, field), getattr(match, field),
            ):  # fmt: skip
                raise DataError(f"{where}: question {question.id} has another {field} in each")
        if bool(question.scores) != bool(match.scores):
            raise DataError(f"{where}: question {question.id} has a score in one of them only")
        if question.scores:
            sides[0].append(question)
            sides[1].append(match)
    return sides


def _by_id(task: str, run: Run) -> dict[str, Answered]:
    questions = {question.id: question for question in run.tasks[task]}
    if len(questions) < len(run.tasks[task]):
        twice = next(name for name in questions if sum(name == other.id for other in run.tasks[task]) > 1)
        raise DataError(f"{run.path}: question {twice} of {task} comes twice, so that it cannot be paired")
    return questions


def _compare_task(task: str, base: list[Answered], other: list[Answered]) -> TaskComparison:
    clusters = [question.cluster for question in base]
    if seeds := _seeds(base, other):
        difference = pooled_difference(_by_seed(base, seeds), _by_seed(other, seeds), clusters)
    else:
        difference = paired([question.score for question in base], [question.score for question in other], clusters)
    return TaskComparison(task, _estimate(base), _estimate(other), difference)


def _seeds(*sides: Sequence[Answered]) -> list[int]:
    """The seeds that any of the sides is pooled of."""
    return next((list(side[0].by_seed) for side in sides if side[0].by_seed), [])


def _by_seed(questions: Sequence[Answered], seeds: Sequence[int]) -> np.ndarray:
    """The scores [S, n] with each of the seeds; those of a single run are the same with all."""
    return np.array([[question.by_seed.get(seed, question.score) for question in questions] for seed in seeds])


def _estimate(questions: Sequence[Answered]) -> Estimate:
    clusters = [question.cluster for question in questions]
    if questions and (seeds := _seeds(questions)):
        return pooled_estimate(_by_seed(questions, seeds), clusters)
    return estimate([question.score for question in questions], clusters)


def _average(pairs: Sequence[Sides]) -> tuple[float, float, float]:
    """The mean over tasks of the mean differences, each task weighing the same, with its 95 % interval: the tasks'
    own are squared and added, since they have no question in common. The seeds they have in common: over these the
    means of the tasks are taken seed by seed."""
    if seeds := _seeds(*pairs[0]):
        changes = [_by_seed(other, seeds) - _by_seed(base, seeds) for base, other in pairs]
        if found := t_test(changes, [[question.cluster for question in base] for base, _ in pairs]):
            return found[:3]
    means, below, above = [], [], []
    for base, other in pairs:
        moved = [after.score - before.score for before, after in zip(base, other, strict=True)]
        low, high = difference_interval(moved, [question.cluster for question in base])
        means.append(fmean(moved))
        below.append(means[-1] - low)
        above.append(high - means[-1])
    mean = fmean(means)
    low, high = mean - math.hypot(*below) / len(pairs), mean + math.hypot(*above) / len(pairs)
    return mean, max(-1.0, low), min(1.0, high)


def paper_table(runs: Sequence[Run]) -> str:
    """The iReasoner paper's table in Markdown, in percent, with a column for each run: mean ± standard error, and how
    many questions were asked where that is not all of the split."""
    columns = _names(runs) or ["yours"]
    lines = [["benchmark", *PAPER, *columns], ["---"] * (1 + len(PAPER) + len(columns))]
    for name in tasks.NAMES:
        task = tasks.load(name)
        assert task.published is not None
        own = [_cell(run.tasks.get(name, []), task.size) for run in runs] or [""]
        lines.append([task.title, *(f"{figure:.2f}" for figure in task.published), *own])
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _cell(questions: Sequence[Answered], size: int) -> str:
    asked = [question for question in questions if question.scores]
    result = _estimate(asked)
    if result.mean is None:
        return ""
    error = f" ± {100 * result.stderr:.2f}" if result.stderr is not None else ""
    part = f" ({len(asked):,} of {size:,})" if len(asked) != size else ""
    return f"{100 * result.mean:.2f}{error}{part}"
