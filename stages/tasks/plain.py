"""Benchmarks in the schema of our own: id, image, question, answers, optional type, choices, images."""

from string import ascii_uppercase

from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL
from stages.errors import DataError
from stages.parsing import answer_key, parse_completion
from stages.tasks.task import Question, Record, Task, with_options


def question(record: Record, position: int) -> Question:
    """Raises DataError for a row that cannot be asked or scored: whoever wrote the file can put it right."""
    problems = {
        "its question is null": record["question"] is None,
        "it has no answers": not record["answers"],
        "an answer is null": None in (record["answers"] or []),
        "a choice is null": None in (record["choices"] or []),
        "an image is null": None in (record["images"] or []),
        "it has neither image nor images": not record["image"] and not record["images"],
        f"it has more than {len(ascii_uppercase)} choices": len(record["choices"] or []) > len(ascii_uppercase),
    }
    for problem, found in problems.items():
        if found:
            raise DataError(f"benchmark row {record['id']}: {problem}")
    return Question(
        id=record["id"],
        text=with_options(record["question"], record["choices"] or []),
        instruction="",
        images=record["images"] or [record["image"]],
        answers=record["answers"],
        type=record["type"],
    )


def extract(completion: str, question: Question) -> str | None:
    return parse_completion(completion).answer


def score(prediction: str, question: Question) -> float:
    """1 where the answer_key is that of any of the answers."""
    key = answer_key(prediction)
    return float(key != "" and key in map(answer_key, question.answers))


TASK = Task(
    name="plain",
    title="benchmark",
    metric="equality of answer_key",
    columns=tuple(BENCHMARK.names),
    optional=tuple(BENCHMARK_OPTIONAL.names),
    question=question,
    extract=extract,
    score=score,
)
