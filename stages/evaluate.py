"""`eval`: answers to a labelled benchmark, scored by equality of answer_key.

benchmark.parquet + policy ──▶ eval.parquet
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from string import ascii_uppercase
from typing import Any

from stages import images, shards
from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL, EVALUATED, SOLVER, Metadata, ModelRef, trajectory_seed
from stages.errors import DataError
from stages.models import DEFAULT_MODEL, locate_model
from stages.parsing import answer_key, parse_completion
from stages.policy import open_policy
from stages.progress import SILENT, Progress
from stages.prompts import with_question
from stages.result import Result
from stages.sampled import Row, SamplingSettings, with_samples
from stages.sampling import Request, Sample


def evaluate(
    inputs: Sequence[Path],
    settings: SamplingSettings,
    samples: int = 1,
    seed: int = 0,
    policy: Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    limit: int | None = None,
    part: shards.Part | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Result:
    """Writes one row per question and sample, and counts what is right, over all and by type.

    A row whose image cannot be read keeps a null score and is counted apart. Raises DataError, UsageError and
    EngineError as the other sampling stages do.
    """
    start = open_policy(policy)
    checkpoint = locate_model(model, start.state.model if start.state else ModelRef(DEFAULT_MODEL))
    benchmark = shards.Rows(inputs, BENCHMARK, BENCHMARK_OPTIONAL)
    params = settings.resolve(SOLVER, checkpoint)
    output = shards.output_path(out, "eval", inputs, part)
    metadata = Metadata(
        stage="eval",
        params={**asdict(params), "samples": samples, "limit": limit},
        seed=seed,
        inputs=benchmark.inputs,
        model=checkpoint.ref,
        policy=start.ref,
    )
    if shards.is_done(output, metadata, force):
        return Result(output, reused=True, summary=accuracy(output))

    total = min(len(benchmark), limit or len(benchmark))
    first, last = (part or shards.Part()).bounds(total)
    with shards.Output(output, EVALUATED, metadata, force, progress) as evaluated:
        with progress.busy("loading the model"):
            sampler = settings.open(checkpoint, start.adapter(SOLVER), benchmark.most_images())
        resumed = min(first + evaluated.done, last)
        questions = islice(benchmark, resumed, last)
        rows = with_samples(sampler, settings.decoding, _attempts(questions, params.prompt, samples, seed))
        with progress.track("eval", last - first, "questions") as advance:
            advance(resumed - first)
            while attempts := list(islice(rows, samples)):
                evaluated.write([_scored(row, sample) if sample else row for row, sample in attempts])
                advance(1)
    return Result(output, summary=accuracy(output))


def _attempts(questions: Iterable[Row], prompt: str, samples: int, seed: int) -> Iterator[tuple[Row, Request | None]]:
    """Each question's rows, still without completions, with their requests; none where an image is unreadable."""
    for question in questions:
        _check(question)
        encoded = [images.read(image, None) for image in question["images"] or [question["image"]]]
        hashes = [images.sha256(data) for data in encoded]
        try:
            pictures = tuple(images.decode(data) for data in encoded)
        except images.UnreadableImage:
            pictures = None
        text = with_question(prompt, _with_choices(question["question"], question["choices"]))
        for index in range(samples):
            row: Row = {
                "id": question["id"],
                "sample_index": index,
                "type": question["type"],
                "image_sha256": hashes[0] if len(hashes) == 1 else images.sha256("".join(hashes).encode()),
                "prompt": text,
                "answers": question["answers"],
            }
            own_seed = trajectory_seed(f"{seed}:{question['id']}", SOLVER, index)
            yield row, Request(pictures, text, own_seed) if pictures else None


def _check(question: Row) -> None:
    """Raises DataError for a benchmark row that cannot be asked or scored."""
    problems = {
        "its question is null": question["question"] is None,
        "it has no answers": not question["answers"],
        "an answer is null": None in (question["answers"] or []),
        "a choice is null": None in (question["choices"] or []),
        "an image is null": None in (question["images"] or []),
        "it has neither image nor images": not question["image"] and not question["images"],
        f"it has more than {len(ascii_uppercase)} choices": len(question["choices"] or []) > len(ascii_uppercase),
    }
    for problem, found in problems.items():
        if found:
            raise DataError(f"benchmark row {question['id']}: {problem}")


def _with_choices(question: str, choices: list[str] | None) -> str:
    lettered = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices or [], strict=False)]
    return "\n".join([question, *lettered])


def _scored(row: Row, sample: Sample) -> Row:
    parsed = parse_completion(sample.text)
    keys = {answer_key(answer) for answer in row["answers"]} - {""}
    return row | {
        "completion": sample.text,
        "prediction": parsed.answer,
        "score": float(parsed.answer_key in keys),
        "tokens": len(sample.token_ids),
        "finish_reason": sample.finish_reason,
    }


def accuracy(path: Path) -> dict[str, Any]:
    """Accuracy with its standard error, over all and by question type, from an eval file.

    The samples of one question count as one observation, their mean. Questions without a score are counted, not
    scored.
    """
    questions: list[tuple[str, list[float]]] = []  # type and scores of each
    unscored = 0
    for batch in shards.read_batches(path, EVALUATED):
        for row in batch.to_pylist():
            if row["sample_index"] == 0:
                questions.append((row["type"] or "", []))
            if row["score"] is None:
                unscored += 1
            else:
                questions[-1][1].append(row["score"])
    means = [(kind, fmean(scores)) for kind, scores in questions if scores]
    by_type = {
        kind: _estimate([mean for own, mean in means if own == kind])
        for kind in sorted({kind for kind, _ in means} - {""})
    }
    return {**_estimate([mean for _, mean in means]), "unscored": unscored, "types": by_type}


def _estimate(means: list[float]) -> dict[str, float | int | None]:
    return {
        "questions": len(means),
        "accuracy": fmean(means) if means else None,
        "stderr": stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None,
    }
