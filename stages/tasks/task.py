"""What a benchmark is, to the stage that asks its questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

Record = Mapping[str, Any]  # a row of the benchmark's file: column to value, None where the file lacks the column
Image = Mapping[str, Any]  # a struct of bytes and path, as Hugging Face datasets writes pictures

LETTER = "Answer with the letter of the correct option."
BRIEF = "Answer with a number, a word or a brief phrase."


class BadRow(Exception):
    """A row that cannot be asked or scored. It stays in the output, without a score; the message says why."""


class OutsideTask(BadRow):
    """A sound row of the file that is not part of the benchmark, such as a question without an image."""


@dataclass(frozen=True)
class Question:
    """One question. `text` is asked, with the options if there are any; `instruction` says what the answer looks
    like; `answers` are all right; `type` is the subset whose figure is given apart; questions of one `cluster` are
    not independent (None: those about the same picture); `answer_type` and `precision` are for the metric."""

    id: str
    text: str
    instruction: str
    images: Sequence[Image]
    answers: Sequence[str]
    choices: Sequence[str] = ()
    type: str | None = None
    cluster: str | None = None
    answer_type: str = ""
    precision: int = 0


@dataclass(frozen=True)
class Task:
    """A benchmark. `question` makes a Question of a row and its position, or raises BadRow; `extract` reads the
    answer off a completion, None where it gives none; `score` is in [0, 1]. `published` are the figures of the
    iReasoner paper, in percent: Qwen2.5-VL-7B, EvoLMM, iReasoner."""

    name: str
    title: str
    metric: str
    columns: tuple[str, ...]
    question: Callable[[Record, int], Question]
    extract: Callable[[str, Question], str | None]
    score: Callable[[str, Question], float]
    optional: tuple[str, ...] = ()
    hub: str = ""  # the data set's id
    hub_files: str = ""  # and in it the files of the split
    folders: tuple[str, ...] = ()
    split: str = ""
    size: int = 0
    subsets: str = ""
    max_images: int = 1
    published: tuple[float, float, float] | None = field(default=None, repr=False)


# ------------------------------------------------------------------------------- reading rows of unknown origin


def text_of(record: Record, *columns: str) -> str:
    """The first of `columns` that holds text. Raises BadRow when none does."""
    for column in columns:
        value = record[column]
        if isinstance(value, str) and value.strip():
            return value.strip()
    raise BadRow(f"no {' or '.join(columns)}")


def image_of(record: Record, column: str) -> Image:
    """Raises BadRow when the column holds no picture."""
    image = record[column]
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    if not isinstance(image, Mapping) or not (image.get("bytes") or image.get("path")):
        raise BadRow(f"no {column}")
    return image


def list_of(record: Record, column: str) -> list[str]:
    """The texts in a list column, [] where it is null. Raises BadRow for anything else."""
    value = record[column]
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRow(f"{column} is not a list of texts")
    return value


def letter_at(index: Any, choices: Sequence[str]) -> str:
    """The letter of the option at `index`, a number or digits. Raises BadRow when there is no such option."""
    try:
        place = int(index)
    except (TypeError, ValueError):
        place = -1
    if not 0 <= place < min(len(choices), len(ascii_uppercase)):
        raise BadRow(f"answer {index!r} is none of the {len(choices)} options")
    return ascii_uppercase[place]


def known_letter(letter: str, choices: Sequence[str]) -> str:
    """`letter` itself. Raises BadRow when it names none of the options."""
    if letter not in ascii_uppercase[: len(choices)] or len(letter) != 1:
        raise BadRow(f"answer {letter!r} is none of the {len(choices)} options")
    return letter


def with_options(question: str, choices: Sequence[str]) -> str:
    """The question, and below it a line for each option with its letter."""
    lettered = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lettered])
