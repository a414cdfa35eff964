"""MMMU (arXiv 2311.16502): questions of college exams, with up to seven images.

Data: MMMU/MMMU (a configuration a subject) or lmms-lab/MMMU (all in one); validation 900 questions, nearly all of
them multiple choice. `options` is a list, in the files of the hub written as Python would write it; an open question's
answer may be one, too.
Metric: accuracy over all questions. An open answer is right when the target is among the numbers, to two decimals,
or stands in the text, of the phrases that conclude the response: the rule of the authors' evaluation. Theirs picks
an option at random where the response names none; here that is wrong, and counted as without an answer.
"""

import ast
import re
from collections.abc import Sequence

from stages.tasks.answers import answer_text
from stages.tasks.numbers import numbers
from stages.tasks.options import option
from stages.tasks.task import (
    BRIEF,
    LETTER,
    BadRow,
    Image,
    Question,
    Record,
    Task,
    image_of,
    known_letter,
    text_of,
    with_options,
)

IMAGES = tuple(f"image_{place}" for place in range(1, 8))
DISCIPLINES = {
    "Art & Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health & Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities & Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech & Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip


def question(record: Record, position: int) -> Question:
    identifier, asked = text_of(record, "id"), text_of(record, "question")
    multiple_choice = record["question_type"] == "multiple-choice"
    choices = _texts(record["options"]) if multiple_choice else []
    if multiple_choice and len(choices) < 2:
        raise BadRow("its options cannot be read as a list of texts")
    answers = [known_letter(record["answer"], choices)] if multiple_choice else _texts(record["answer"])
    if not answers or "" in answers:
        raise BadRow("no answer")
    text = with_options(asked, choices)
    subject = "_".join(identifier.split("_")[1:-1])
    return Question(
        id=identifier,
        text=text,
        instruction=LETTER if multiple_choice else BRIEF,
        images=_images(record, text),
        answers=answers,
        choices=choices,
        type=next((name for name, subjects in DISCIPLINES.items() if subject in subjects), None),
    )


def _texts(value: object) -> list[str]:
    """A list of texts, as it is or written as Python writes it; any other text is the only one."""
    if isinstance(value, list) and value:
        return [str(item).strip() for item in value]
    if not isinstance(value, str) or not value.strip():
        raise BadRow("no options or answer")
    if value.lstrip().startswith("["):
        try:
            return [str(item).strip() for item in ast.literal_eval(value.strip())]
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass  # a bracket that only looks like one, such as an interval
    return [value.strip()]


def _images(record: Record, text: str) -> Sequence[Image]:
    """The images that the text refers to as `<image 2>`, in their order; all there are where it names none."""
    named = [f"image_{place}" for place in sorted(set(re.findall(r"<image ([1-7])>", text)))]
    found = named or [column for column in IMAGES if record[column] is not None]
    if not found:
        raise BadRow("no image")
    return [image_of(record, column) for column in found]


def extract(completion: str, question: Question) -> str | None:
    return option(completion, question.choices) if question.choices else answer_text(completion)


def score(prediction: str, question: Question) -> float:
    if question.choices:
        return float(prediction in question.answers)
    return float(any(_concludes(prediction, answer) for answer in question.answers))


_INDICATOR = re.compile(r"could be |so |is |thus |therefore |final |answer |result ")
_LAST_INDICATOR = re.compile(f"{_INDICATOR.pattern}|=")  # the last line may be an equation


def _concludes(response: str, target: str) -> bool:
    lines = response.strip().strip(".").lower().split("\n")
    tails = [_INDICATOR.split(line)[-1] for line in lines[:-1] if _INDICATOR.search(line)]
    if _LAST_INDICATOR.search(lines[-1]):
        tails.append(_LAST_INDICATOR.split(lines[-1])[-1])
    phrases = [tail.strip() for tail in tails if tail.strip(" :,.!?;'")] or ["\n".join(lines)]
    wanted = _value(target)
    if wanted is not None:
        return any(wanted in (_value(phrase), *(round(number, 2) for number in numbers(phrase))) for phrase in phrases)
    plain = target.lower()
    if len(plain) == 1:  # a letter is met by a word of one letter only
        return any(plain in phrase.split() for phrase in phrases)
    return any(plain in phrase for phrase in phrases)


def _value(text: str) -> float | None:
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        return None


TASK = Task(
    name="mmmu",
    title="MMMU",
    metric="accuracy",
    hub="lmms-lab/MMMU",
    hub_files="data/validation-*.parquet",
    folders=("MMMU",),
    split="validation",
    size=900,
    subsets="by discipline",
    columns=("id", "question", "options", "answer", "question_type", "image_1"),
    optional=IMAGES[1:],
    question=question,
    extract=extract,
    score=score,
    max_images=7,
    published=(51.11, 52.01, 52.37),
)
