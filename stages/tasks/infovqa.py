"""InfographicVQA (arXiv 2104.12756): short answers about infographics.

Data: lmms-lab/DocVQA, configuration InfographicVQA; validation 2,801 questions (test has no public answers).
Metric: ANLS, the largest over the reference answers of 1 − distance/length where that is at least 0.5, else 0
(arXiv 1907.00490). lmms-eval divides by the longer text as it was before spaces are collapsed, so that padding an
answer with spaces raises its score; here distance and length are of the same texts.
"""

from rapidfuzz.distance import Levenshtein

from stages.tasks.answers import phrase
from stages.tasks.task import BadRow, Question, Record, Task, image_of, list_of, text_of

THRESHOLD = 0.5


def question(record: Record, position: int) -> Question:
    answers = [answer for answer in list_of(record, "answers") if answer.strip()]
    if not answers:
        raise BadRow("no answers")
    return Question(
        id=str(record["questionId"]),
        text=text_of(record, "question"),
        instruction="Answer with a word or a phrase, in the words of the picture where it has them.",
        images=[image_of(record, "image")],
        answers=answers,
        type=", ".join(sorted(list_of(record, "answer_type"))) or None,
    )


def extract(completion: str, question: Question) -> str | None:
    return phrase(completion)


def score(prediction: str, question: Question) -> float:
    """ANLS, in [0, 1]."""
    best = max(Levenshtein.normalized_similarity(_plain(answer), _plain(prediction)) for answer in question.answers)
    return best if best >= THRESHOLD else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


TASK = Task(
    name="infovqa",
    title="InfographicVQA",
    metric="ANLS, threshold 0.5",
    hub="lmms-lab/DocVQA",
    hub_files="InfographicVQA/validation-*.parquet",
    folders=("InfographicVQA", "InfoVQA"),
    split="validation",
    size=2801,
    subsets="by where the answer comes from",
    columns=("questionId", "question", "answers", "image"),
    optional=("answer_type",),
    question=question,
    extract=extract,
    score=score,
    published=(80.44, 81.06, 81.56),
)
