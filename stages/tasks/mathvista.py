"""MathVista (arXiv 2310.02255): mathematics in charts, figures and photographs.

Data: AI4Math/MathVista, testmini 1,000 questions. Multiple choice, or a whole number, a decimal number of a given
precision, or a list.
Metric: accuracy. Usually a proprietary model reads the answer off the response; here rules do, and how often they
find none is reported. What follows is the authors' rule: a whole number by cutting off decimals, a decimal number by
rounding to the precision, a list by its numbers. Their rule takes the option nearest in spelling to whatever was
said; here a response that names no option has no answer.
"""

import re
from string import ascii_uppercase

from stages.parsing.notation import plain
from stages.tasks.answers import answer_text
from stages.tasks.numbers import last_number, numbers
from stages.tasks.options import option
from stages.tasks.task import LETTER, BadRow, Question, Record, Task, image_of, list_of, text_of, with_options

FREE_FORM = {
    "integer": "Answer with a whole number.",
    "float": "Answer with a number, to {precision} decimal place{s}.",
    "list": "Answer with a list of numbers, such as [1, 2].",
}


def question(record: Record, position: int) -> Question:
    choices = list_of(record, "choices")
    multiple_choice = record["question_type"] == "multi_choice"
    answer = text_of(record, "answer")
    kind = str(record["answer_type"])
    if multiple_choice:
        if choices.count(answer) != 1:
            raise BadRow(f"answer {answer!r} is none of the {len(choices)} options, or several")
        answer = ascii_uppercase[choices.index(answer)]
    elif kind not in FREE_FORM or (kind != "list" and len(numbers(answer)) != 1):
        raise BadRow(f"answer {answer!r} is of no known type ({kind})")
    precision = int(record["precision"] or 0)  # a float in the data
    unit = (record["unit"] or "").strip()
    asked = text_of(record, "question") + (f" (Unit: {unit})" if unit else "")
    plural = "s" * (precision != 1)
    return Question(
        id=text_of(record, "pid"),
        text=with_options(asked, choices) if multiple_choice else asked,
        instruction=LETTER if multiple_choice else FREE_FORM[kind].format(precision=precision, s=plural),
        images=[image_of(record, "decoded_image")],
        answers=[answer],
        choices=choices if multiple_choice else (),
        type=(record["metadata"] or {}).get("task"),
        answer_type="text" if multiple_choice else kind,
        precision=precision,
    )


def extract(completion: str, question: Question) -> str | None:
    if question.choices:
        return option(completion, question.choices)
    if question.answer_type == "list":
        lists = re.findall(r"[\[({][^\[\](){}]*[\])}]", plain(answer_text(completion) or ""))
        return lists[-1] if lists else None
    return last_number(completion)


def score(prediction: str, question: Question) -> float:
    [answer] = question.answers
    if question.answer_type == "text":
        return float(prediction == answer)
    given, wanted = numbers(prediction), numbers(answer)
    if question.answer_type == "integer":
        given, wanted = ([float(int(number)) for number in side] for side in (given, wanted))
    elif question.answer_type == "float":
        given, wanted = ([round(number, question.precision) for number in side] for side in (given, wanted))
    return float(given == wanted)


TASK = Task(
    name="mathvista",
    title="MathVista",
    metric="accuracy, by rules and no judge",
    hub="AI4Math/MathVista",
    hub_files="data/testmini-*.parquet",
    folders=("MathVista",),
    split="testmini",
    size=1000,
    subsets="by kind of question",
    columns=("pid", "question", "decoded_image", "choices", "answer", "question_type", "answer_type", "precision"),
    optional=("unit", "metadata"),
    question=question,
    extract=extract,
    score=score,
    published=(68.47, 70.52, 69.74),
)
