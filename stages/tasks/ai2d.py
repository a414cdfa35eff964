"""AI2D (arXiv 1603.07396): multiple choice about the diagrams of school books.

Data: lmms-lab/ai2d, test 3,088 questions; `answer` is the place of the right one among `options`, as digits.
Metric: accuracy of the option's letter.
"""

from stages.tasks.options import option
from stages.tasks.task import LETTER, Question, Record, Task, image_of, letter_at, list_of, text_of, with_options


def question(record: Record, position: int) -> Question:
    choices = list_of(record, "options")
    return Question(
        id=str(position),
        text=with_options(text_of(record, "question"), choices),
        instruction=LETTER,
        images=[image_of(record, "image")],
        answers=[letter_at(record["answer"], choices)],
        choices=choices,
    )


def extract(completion: str, question: Question) -> str | None:
    return option(completion, question.choices)


def score(prediction: str, question: Question) -> float:
    return float(prediction in question.answers)


TASK = Task(
    name="ai2d",
    title="AI2D",
    metric="accuracy of the letter",
    hub="lmms-lab/ai2d",
    hub_files="data/test-*.parquet",
    folders=("ai2d",),
    split="test",
    size=3088,
    columns=("question", "options", "answer", "image"),
    question=question,
    extract=extract,
    score=score,
    published=(82.61, 83.41, 83.89),
)
