"""MathVerse (arXiv 2403.14624): each problem in versions that move its content from the text into the figure.

Data: AI4Math/MathVerse or CaraJ/MathVerse-lmmseval, testmini 3,940: 788 problems in 5 versions with a figure. Rows of
the sixth, Text Only, are left out. The versions of a problem are one cluster.
Metric: accuracy; usually a proprietary model judges, here rules do: the option's letter, or expressions compared by
math-verify, to two decimals.
"""

import re

from stages.tasks import problems
from stages.tasks.task import LETTER, OutsideTask, Question, Record, Task, image_of, known_letter, text_of

IN_THE_PICTURE = "The question is written in the picture."  # the version Vision Only has no text
UNSEEN_OPTIONS = ("", "", "", "", "")  # they stand in the picture, A to E at most
_OPTION = re.compile(r"^\s*\(?([A-H])\s*[:.)]\s*(.*?)\s*$", re.MULTILINE)


def question(record: Record, position: int) -> Question:
    if record["problem_version"] == "Text Only":
        raise OutsideTask("the version Text Only")
    multiple_choice = record["question_type"] == "multi-choice"
    asked = (record["question"] or "").strip() or IN_THE_PICTURE
    choices = _options(record["question_for_eval"] or asked) if multiple_choice else ()
    answer = text_of(record, "answer")
    return Question(
        id=text_of(record, "sample_index"),
        text=asked,
        instruction=LETTER if multiple_choice else "Answer with a number or an expression.",
        images=[image_of(record, "image")],
        answers=[known_letter(answer, choices) if multiple_choice else answer],
        choices=choices,
        type=record["problem_version"],
        cluster=text_of(record, "problem_index"),
    )


def _options(text: str) -> tuple[str, ...]:
    """The options that the text lists below `Choices:`, a line each."""
    found = _OPTION.findall(text.rpartition("Choices:")[2])
    in_order = [letter for letter, _ in found] == list("ABCDEFGH"[: len(found)])
    return tuple(choice for _, choice in found) if len(found) > 1 and in_order else UNSEEN_OPTIONS


TASK = Task(
    name="mathverse",
    title="MathVerse",
    metric="accuracy, by rules and no judge",
    hub="AI4Math/MathVerse",
    hub_files="testmini.parquet",
    folders=("MathVerse", "MathVerse-lmmseval"),
    split="testmini",
    size=3940,
    subsets="by version",
    columns=("sample_index", "problem_index", "problem_version", "question", "image", "answer", "question_type"),
    optional=("question_for_eval",),
    question=question,
    extract=problems.extract,
    score=problems.score,
    published=(43.78, 44.88, 45.91),
)
