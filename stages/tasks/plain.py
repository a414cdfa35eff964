"""Benchmarks in the schema of our own: id, image, question, answers, optional type, choices, images.

Metric: equality of answer_key with any of `answers`. With `choices` it is the option that counts: its letter and its
text are both right, whichever of the two `answers` holds.
"""

from collections.abc import Sequence
from string import ascii_uppercase

from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL
from stages.errors import DataError
from stages.parsing import answer_key, parse_completion
from stages.tasks.options import option_in
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
    choices = record["choices"] or []
    for answer in record["answers"] if choices else ():
        if len(letters := _letters(answer, choices)) != 1:
            trouble = f"both {' and '.join(letters)}" if letters else "neither letter nor text of any"
            raise DataError(f"benchmark row {record['id']}: its answer {answer!r} is {trouble} of its choices")
    return Question(
        id=record["id"],
        text=with_options(record["question"], choices),
        instruction="",
        images=record["images"] or [record["image"]],
        answers=record["answers"],
        choices=choices,
        type=record["type"],
    )


def _letters(answer: str, choices: Sequence[str]) -> list[str]:
    """The letters of the options that an answer names, by letter or by text."""
    key = answer_key(answer)
    return [
        letter
        for letter, choice in zip(ascii_uppercase, choices, strict=False)
        if key != "" and key in (letter.lower(), answer_key(choice), answer_key(f"{letter}. {choice}"))
    ]


def extract(completion: str, question: Question) -> str | None:
    answer = parse_completion(completion).answer
    return option_in(answer, question.choices) if answer and question.choices else answer


def score(prediction: str, question: Question) -> float:
    """1 where the answer_key is that of any of the answers; with choices, where the letter is."""
    if question.choices:
        return float(any(prediction in _letters(answer, question.choices) for answer in question.answers))
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
