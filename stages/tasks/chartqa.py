"""ChartQA (arXiv 2203.10244): short answers about charts.

Data: lmms-lab/ChartQA (type, question, answer, image), or HuggingFaceM4/ChartQA (human_or_machine, query, label,
image); test 2,500 questions, half of them written by people and half by a machine.
Metric: relaxed accuracy: a number may be off by 5 % of the target, any other answer must be the target but for case;
a percentage is the number divided by 100. As in the harnesses a target of zero must be met exactly; theirs then
compares the spelling, ours the number. Nor is the rule about spelling elsewhere: both are compared by answer_key, so
that separators of thousands, typographic signs and marks around the answer do not count. Units do: 14 is not $14.
"""

import math

from stages.parsing import answer_key
from stages.tasks.answers import phrase
from stages.tasks.task import BRIEF, BadRow, Question, Record, Task, image_of, text_of

TOLERANCE = 0.05
ORIGIN = {"human_test": "human", "augmented_test": "augmented", 0: "human", 1: "augmented"}


def question(record: Record, position: int) -> Question:
    label = record["answer"] if record["answer"] is not None else record["label"]
    answers = label if isinstance(label, list) else [label]
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise BadRow("no answer")
    return Question(
        id=str(position),
        text=text_of(record, "question", "query"),
        instruction=BRIEF,
        images=[image_of(record, "image")],
        answers=[answer.strip() for answer in answers],
        type=ORIGIN.get(record["type"] if record["type"] is not None else record["human_or_machine"]),
    )


def extract(completion: str, question: Question) -> str | None:
    return phrase(completion)


def score(prediction: str, question: Question) -> float:
    key = answer_key(prediction)
    return float(key != "" and any(_relaxed(key, answer_key(answer)) for answer in question.answers))


def _relaxed(prediction: str, target: str) -> bool:
    given, wanted = _number(prediction), _number(target)
    if given is None or wanted is None:
        return prediction == target
    return abs(given - wanted) <= TOLERANCE * abs(wanted)


def _number(key: str) -> float | None:
    try:
        value = float(key.removesuffix("%")) / 100 if key.endswith("%") else float(key)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


TASK = Task(
    name="chartqa",
    title="ChartQA",
    metric="relaxed accuracy, 5 %",
    hub="lmms-lab/ChartQA",
    hub_files="data/test-*.parquet",
    folders=("ChartQA",),
    split="test",
    size=2500,
    subsets="human, augmented",
    columns=("image",),
    optional=("type", "question", "answer", "human_or_machine", "query", "label"),
    question=question,
    extract=extract,
    score=score,
    published=(84.00, 86.70, 85.78),
)
