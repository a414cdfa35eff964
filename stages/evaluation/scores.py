"""What an eval file says: the scores of each task, and how sure they are."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from stages import shards
from stages.contract import EVALUATED, LEFT_OUT, Metadata
from stages.errors import DataError
from stages.evaluation.statistics import estimate
from stages.parsing import answer_key

REQUIRED = ("id", "sample_index", "image_sha256", "prediction", "answers", "score", "finish_reason")
OPTIONAL = ("task", "type", "question", "cluster", "reject_reason")


@dataclass
class Answered:
    """A question and its samples: scores and predictions, both [k], empty where it could not be asked. `by_seed`: the
    score in each of the runs that this one is pooled of, by their seeds; empty for a single run."""

    id: str
    type: str
    cluster: str
    question: str | None
    image_sha256: str | None
    answers: tuple[str, ...]
    reject_reason: str | None
    scores: list[float] = field(default_factory=list)
    predictions: list[str | None] = field(default_factory=list)
    truncated: int = 0
    by_seed: dict[int, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The mean over the samples: they are one observation."""
        return fmean(self.scores)

    @property
    def best(self) -> float:
        """pass@k with k all the samples: the best score among them."""
        return max(self.scores)

    @property
    def majority(self) -> float:
        """majority@k: the score of the commonest answer, of two the one sampled first; 0 without any answer."""
        keys = [None if prediction is None else answer_key(prediction) for prediction in self.predictions]
        votes = Counter(key for key in keys if key is not None)
        return self.scores[keys.index(votes.most_common(1)[0][0])] if votes else 0.0


@dataclass(frozen=True)
class Run:
    """The questions of each task of an eval file, in order. `seeds`: those of the runs that it is pooled of."""

    path: Path
    metadata: Metadata
    tasks: dict[str, list[Answered]]
    seeds: tuple[int, ...] = ()


def read_run(path: Path) -> Run:
    """An eval file or a directory of all its parts.

    Raises UsageError when there is none, DataError when `eval` has not written it or samples are out of order.
    """
    return _read(path, shards.input_files([path]))


def _read(path: Path, files: Sequence[Path]) -> Run:
    metadata = shards.read_metadata(files[0])
    for file in files:
        if (stage := shards.read_metadata(file).stage) != "eval":
            raise DataError(f"{file}: written by `{stage}`; this reads what `eval` writes")
    # A benchmark of our own schema goes by the name of its file.
    plain = metadata.inputs[0].name.removesuffix(".parquet") if metadata.inputs else "benchmark"
    tasks: dict[str, list[Answered]] = {}
    for row in _rows(files):
        questions = tasks.setdefault(row["task"] or plain, [])
        if row["sample_index"] == 0:
            questions.append(_question(row))
        elif not questions or questions[-1].id != row["id"]:
            raise DataError(f"{path}: the samples of question {row['id']} do not follow one another from the first")
        if row["score"] is not None:
            questions[-1].scores.append(row["score"])
            questions[-1].predictions.append(row["prediction"])
            questions[-1].truncated += row["finish_reason"] == "length"
    return Run(path, metadata, tasks)


def _question(row: dict[str, Any]) -> Answered:
    return Answered(
        id=row["id"],
        type=row["type"] or "",
        cluster=row["cluster"] or row["image_sha256"] or row["id"],
        question=row["question"],
        image_sha256=row["image_sha256"],
        answers=tuple(row["answers"] or ()),
        reject_reason=row["reject_reason"],
    )


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    required, optional = (pa.schema([EVALUATED.field(name) for name in names]) for names in (REQUIRED, OPTIONAL))
    for file in files:
        for batch in shards.read_batches(file, required, optional):
            yield from batch.to_pylist()


def summarize(path: Path) -> dict[str, Any]:
    """The figures of an eval file: of the one task it holds, otherwise under `tasks` those of each."""
    run = _read(path, [path])  # a part by itself, where that is what was made
    figures = {task: summary(questions) for task, questions in run.tasks.items()}
    if "tasks" in run.metadata.params:
        return {"tasks": figures}
    return next(iter(figures.values()), summary([]))


def accuracy(figures: Mapping[str, Any]) -> float | None:
    """Of what `summarize` found: of several tasks their mean; None where nothing was asked."""
    found = [task["accuracy"] for task in figures.get("tasks", {"": figures}).values()]
    known = [value for value in found if value is not None]
    return fmean(known) if known else None


def summary(questions: Sequence[Answered]) -> dict[str, Any]:
    """Accuracy (the mean score) with error and 95 % interval, over all and by type, and what was counted apart."""
    asked = [question for question in questions if question.scores]
    reasons = [question.reject_reason for question in questions if question.reject_reason]
    bad = Counter(_kind(reason) for reason in reasons if not reason.startswith(LEFT_OUT))
    left_out = len(reasons) - bad.total()
    samples = sum(len(question.scores) for question in asked)
    figures = {
        **_accuracy(asked),
        "unscored": len(questions) - len(asked) - left_out,
        "left_out": left_out,
        "reject_reasons": dict(bad.most_common(8)),
        "no_answer": _share(sum(question.predictions.count(None) for question in asked), samples),
        "truncated": _share(sum(question.truncated for question in asked), samples),
        "types": {
            kind: _accuracy([question for question in asked if question.type == kind])
            for kind in sorted({question.type for question in asked} - {""})
        },
    }
    if any(len(question.scores) > 1 for question in asked):
        figures["pass@k"] = _of(asked, [question.best for question in asked])
        figures["majority@k"] = _of(asked, [question.majority for question in asked])
        figures["k"] = max(len(question.scores) for question in asked)
    return figures


def _kind(reason: str) -> str:
    """A reason without what is particular to one row, so that equal ones can be counted."""
    return reason.split(":")[0].split("'")[0].strip()


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _accuracy(asked: Sequence[Answered]) -> dict[str, Any]:
    figures = _of(asked, [question.score for question in asked])
    return {"questions": len(asked), "accuracy": figures.pop("mean"), **figures}


def _of(asked: Sequence[Answered], values: Sequence[float]) -> dict[str, Any]:
    figures = asdict(estimate(values, [question.cluster for question in asked]))
    del figures["questions"]
    return figures
