"""`eval`: answers to a labelled benchmark, one of our own schema or one of `tasks`, scored by its metric.

benchmark.parquet + policy ──▶ eval.parquet
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from stages import images, shards, tasks
from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL, EVALUATED, LEFT_OUT, SOLVER, UNREADABLE, Row, trajectory_seed
from stages.errors import DataError
from stages.evaluation.scores import summarize
from stages.job import Job, Start
from stages.parameters import Call, recorded
from stages.parameters.evaluate import EvalParams
from stages.progress import SILENT, Progress
from stages.prompts import QUESTION, filled
from stages.result import Result
from stages.sampling import Engines, Refused, Request, Sample, open_sampler
from stages.sampling.rows import Asking, with_samples
from stages.tasks.data import files_of
from stages.tasks.task import BadRow, Image, OutsideTask, Question, Record, Task

# What a task raises over a row that cannot be asked, and over one of another schema.
NO_QUESTION = (BadRow, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
DIRECT = "{question} Give the answer alone, without any explanation."  # the prompt without reasoning

ALWAYS_THE_SAME = "--samples {samples} at temperature 0 has the same answer {samples} times; --temperature 1 samples"


def evaluate(
    inputs: Sequence[Path],
    params: EvalParams,
    call: Call = Call(),
    progress: Progress = SILENT,
    engines: Engines = open_sampler,
) -> Result:
    """Writes one row per question and sample, and sums up the scores.

    The files of tasks are `inputs`, or lie below the folder of their data; without tasks `inputs` is a benchmark of our
    own schema. The limit counts the questions of each task. A row that cannot be asked keeps a null score and says why.
    Raises DataError, UsageError and EngineError as the other sampling stages do.
    """
    names = params.task or []
    start = Start.chosen(call, SOLVER)
    benchmarks = [_open(name, inputs, params.data, call.limit, progress.say) for name in names or ("plain",)]
    asking = Asking.settled(SOLVER, start, params.sampling)
    if not params.reasoning:
        asking = replace(asking, prompt=DIRECT)
    output = output_of(inputs, params, call)
    recorded_tasks = {"tasks": list(names), "reasoning": params.reasoning} if names else {}
    job = Job(
        "eval",
        call,
        start,
        output=output,
        params={**recorded(params), **asking.recorded(), **recorded_tasks},
        seed=call.seed,
        inputs=tuple(ref for benchmark in benchmarks for ref in benchmark.records.inputs),
        total=sum(len(benchmark) for benchmark in benchmarks),
        unit="questions",
    )

    if params.samples > 1 and params.sampling.decoding.temperature == 0:
        progress.say(ALWAYS_THE_SAME.format(samples=params.samples))

    def check() -> None:
        for benchmark in benchmarks:
            _check_questions(benchmark)
            _check_askable(benchmark, asking.prompt)

    def requests(left: range) -> int:
        check()
        return len(left) * params.samples

    if there := job.there(requests):
        return replace(there, summary=summarize(output)) if there.reused else there

    check()
    most_images = max(benchmark.most_images() for benchmark in benchmarks)
    load = partial(asking.open, engines, most_images)
    with job.writing(EVALUATED, progress) as evaluated, evaluated.using(load) as sampler:
        evaluated.made_on(sampler.device)
        asked = islice(chain.from_iterable(benchmarks), evaluated.left.start, evaluated.left.stop)
        asked_for = _attempts(asked, asking.prompt, params.samples, call.seed)
        attempts = with_samples(sampler, params.sampling.decoding, asked_for)
        while group := list(islice(attempts, params.samples)):
            evaluated.write([attempt.scored(sample) for attempt, sample in group])
    return Result(output, summary=summarize(output))


def output_of(inputs: Sequence[Path], params: EvalParams, call: Call) -> Path:
    """The file that is written. Raises UsageError as `shards.output_path` does."""
    names = params.task or []
    default = f"eval-{names[0]}" if len(names) == 1 else "eval"
    return shards.output_path(call.out, default, [] if names else inputs, call.shard)


@dataclass(frozen=True)
class _Benchmark:
    """A task and its rows, of which those up to the `limit`-th question of the task are asked."""

    task: Task
    records: shards.Rows | shards.Records
    limit: int | None

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[tuple[Task, Record, int]]:
        """Each row with its task and its position."""
        return ((self.task, record, place) for place, record in enumerate(islice(self.records, self._rows)))

    @cached_property
    def _rows(self) -> int:
        if self.limit is None or self.task.name == "plain":
            return min(len(self.records), self.limit or len(self.records))
        questions = (place for place, record in enumerate(self.records, 1) if not _is_outside(self.task, record, place))
        return next(islice(questions, self.limit - 1, None), len(self.records))

    @property
    def where(self) -> str:
        """Its title; of our own schema the file, or the first of several."""
        first, *others = self.records.files
        return self.task.title if self.task.name != "plain" else f"{first}{f' and {len(others)} more' * bool(others)}"

    def most_images(self) -> int:
        """How many images a question has at most."""
        return self.records.most_images() if isinstance(self.records, shards.Rows) else self.task.max_images


def _is_outside(task: Task, record: Record, place: int) -> bool:
    """Whether the row is left out by the task's own rules."""
    try:
        task.question(record, place)
    except OutsideTask:
        return True
    except (DataError, *NO_QUESTION):  # what is wrong with it is said where it would be asked
        return False
    return False


def _open(
    name: str, inputs: Sequence[Path], data: Path | None, limit: int | None, say: Callable[[str], None]
) -> _Benchmark:
    task = tasks.load(name)
    if name == "plain":
        return _Benchmark(task, _plain_rows(inputs), limit)
    return _Benchmark(task, shards.Records(files_of(task, inputs, data, say), task.columns, task.optional), limit)


def _plain_rows(inputs: Sequence[Path]) -> shards.Rows:
    """Rows of our own schema. A file with `images` need not have `image`."""
    columns = [shards.schema_of(file).names for file in shards.input_files(inputs)]
    if all("image" in names or "images" not in names for names in columns):
        return shards.Rows(inputs, BENCHMARK, BENCHMARK_OPTIONAL)
    image = BENCHMARK.field("image")
    others = BENCHMARK.remove(BENCHMARK.get_field_index("image"))
    return shards.Rows(inputs, others, pa.schema([image, *BENCHMARK_OPTIONAL]))


def _check_questions(benchmark: _Benchmark) -> None:
    """Raises DataError when there is no question, for a row of our own schema that is none, and when two have one id:
    they would have one seed, and could not be told apart."""
    if not len(benchmark):
        raise DataError(f"{benchmark.where}: has no questions")
    places: dict[str, int] = {}
    for task, record, place in benchmark:
        try:
            question = task.question(record, place)
        except DataError as error:
            raise DataError(f"{benchmark.where}: {error}") from error
        except NO_QUESTION:
            continue
        if places.setdefault(question.id, place) != place:
            raise DataError(
                f"{benchmark.where}: rows {places[question.id]} and {place} (counted from 0) have the id "
                f"{question.id!r}; give each question its own, and name the files of one split alone"
            )


def _check_askable(benchmark: _Benchmark, prompt: str) -> None:
    """Raises DataError when no row can be asked: a file of something else, and nothing to load a model for."""
    problem = left_out = None
    for attempt, request in _attempts(benchmark, prompt, 1, 0):
        if request:
            return
        reason = f"{attempt.row['id']}: {attempt.row['reject_reason']}"
        if attempt.row["reject_reason"].startswith(LEFT_OUT):
            left_out = left_out or reason
        else:
            problem = problem or reason
    raise DataError(f"{benchmark.where}: none of its {len(benchmark)} questions can be asked ({problem or left_out})")


@dataclass(frozen=True)
class _Attempt:
    """A question and its row, still without a completion; without a question where the row cannot be asked."""

    row: Row
    task: Task
    question: Question | None

    def scored(self, sample: Sample | Refused | None) -> Row:
        """The row with its completion, and with what that is worth: without an answer in it, nothing. Without a
        completion the row says why there is none."""
        if sample is None or self.question is None:
            return self.row
        if isinstance(sample, Refused):
            return self.row | {"reject_reason": sample.reason}
        prediction = self.task.extract(sample.text, self.question)
        return self.row | {
            "completion": sample.text,
            "prediction": prediction,
            "score": 0.0 if prediction is None else self.task.score(prediction, self.question),
            "tokens": len(sample.token_ids),
            "finish_reason": sample.finish_reason,
        }


def _attempts(
    asked: Iterable[tuple[Task, Record, int]], prompt: str, samples: int, seed: int
) -> Iterator[tuple[_Attempt, Request | None]]:
    """`samples` attempts at each question, with their requests; none where it cannot be asked."""
    for task, record, place in asked:
        row: Row = {"task": None if task.name == "plain" else task.name, "id": f"row {place}"}
        question = pictures = None
        try:
            question = task.question(record, place)
            row |= _columns(question)
            encoded = _read(question.images)
            question = replace(question, images=())  # an attempt can wait long for its sample
            row |= _of_images(row, encoded)
            pictures = tuple(images.decode(data) for data in encoded)
        except OutsideTask as error:
            row["reject_reason"] = f"{LEFT_OUT}: {error}"
        except (BadRow, images.UnreadableImage) as error:
            row["reject_reason"] = str(error)
        except NO_QUESTION as error:
            row["reject_reason"] = f"not of the benchmark's schema: {error}"
        text = None
        if question is not None:
            text = filled(prompt, {QUESTION: "\n".join(filter(None, (question.text, question.instruction)))})
        for index in range(samples):
            name = row["id"] if row["task"] is None else f"{task.name}:{row['id']}"
            own_seed = trajectory_seed(f"{seed}:{name}", SOLVER, index)
            attempt = _Attempt(row | {"sample_index": index, "prompt": text, "seed": own_seed}, task, question)
            yield attempt, Request(pictures, text, own_seed) if pictures and text else None


def _columns(question: Question) -> Row:
    return {
        "id": question.id,
        "type": question.type,
        "question": question.text,
        "answers": list(question.answers),
        "cluster": question.cluster,
    }


def _of_images(row: Row, encoded: Sequence[bytes]) -> Row:
    hashes = [images.sha256(data) for data in encoded]
    digest = hashes[0] if len(hashes) == 1 else images.sha256("".join(hashes).encode())
    return {"image_sha256": digest, "cluster": row["cluster"] or digest}


def _read(pictures: Sequence[Image]) -> list[bytes]:
    """The encoded images. Raises UnreadableImage where one is missing."""
    try:
        return [images.read(dict(image), None) for image in pictures]
    except DataError as error:
        raise images.UnreadableImage(f"{UNREADABLE}: {error}") from error
