"""MATH-Vision (arXiv 2402.14804): problems of mathematics competitions.

Data: MathLLMs/MathVision, test 3,040 questions (testmini holds 304 of them). `answer` is an option's letter where
there are `options`, otherwise a number or an expression.
Metric: accuracy; expressions are compared by math-verify, to two decimals as in the authors' rule. No model judges.
"""

from stages.tasks import problems
from stages.tasks.task import LETTER, Question, Record, Task, image_of, known_letter, list_of, text_of, with_options


def question(record: Record, position: int) -> Question:
    choices = list_of(record, "options")
    answer = text_of(record, "answer")
    asked = text_of(record, "question")
    return Question(
        id=text_of(record, "id"),
        text=with_options(asked, choices),
        instruction=LETTER if choices else "Answer with a number or an expression.",
        images=[image_of(record, "decoded_image")],
        answers=[known_letter(answer, choices) if choices else answer],
        choices=choices,
        type=record["subject"],
    )


TASK = Task(
    name="mathvision",
    title="MathVision",
    metric="accuracy, by rules and no judge",
    hub="MathLLMs/MathVision",
    hub_files="data/test-*.parquet",
    folders=("MathVision",),
    split="test",
    size=3040,
    subsets="by subject",
    columns=("id", "question", "options", "decoded_image", "answer"),
    optional=("subject",),
    question=question,
    extract=problems.extract,
    score=problems.score,
    published=(23.91, 24.81, 25.29),
)
