"""ScienceQA (arXiv 2209.09513), the questions with an image: multiple choice from school science.

Data: lmms-lab/ScienceQA, configuration ScienceQA-IMG, test 2,017 questions; or derek-thomas/ScienceQA, whose test
split of 4,241 holds the same and others without an image, which are left out. `answer` is the place of the right
option. Metric: accuracy of the option's letter.
"""

from stages.tasks.options import option
from stages.tasks.task import (
    LETTER,
    OutsideTask,
    Question,
    Record,
    Task,
    image_of,
    letter_at,
    list_of,
    text_of,
    with_options,
)


def question(record: Record, position: int) -> Question:
    if record["image"] is None:
        raise OutsideTask("no image")
    choices = list_of(record, "choices")
    asked = with_options(text_of(record, "question"), choices)
    context = (record["hint"] or "").strip()
    return Question(
        id=str(position),
        text=f"Context: {context}\n{asked}" if context else asked,
        instruction=LETTER,
        images=[image_of(record, "image")],
        answers=[letter_at(record["answer"], choices)],
        choices=choices,
        type=record["subject"],
    )


def extract(completion: str, question: Question) -> str | None:
    return option(completion, question.choices)


def score(prediction: str, question: Question) -> float:
    return float(prediction in question.answers)


TASK = Task(
    name="scienceqa",
    title="ScienceQA",
    metric="accuracy of the letter",
    hub="lmms-lab/ScienceQA",
    hub_files="ScienceQA-IMG/test-*.parquet",
    folders=("ScienceQA-IMG", "ScienceQA"),
    split="test",
    size=2017,
    subsets="with an image; by subject",
    columns=("question", "choices", "answer", "image"),
    optional=("hint", "subject"),
    question=question,
    extract=extract,
    score=score,
    published=(88.30, 89.50, 89.92),
)
