"""Mathematical problems, some with options and some without: how an answer is read off and scored."""

from stages.tasks.answers import conclusion
from stages.tasks.equivalence import equivalent
from stages.tasks.options import option
from stages.tasks.task import Question


def extract(completion: str, question: Question) -> str | None:
    return option(completion, question.choices) if question.choices else conclusion(completion)


def score(prediction: str, question: Question) -> float:
    [answer] = question.answers
    return float(prediction == answer if question.choices else equivalent(answer, prediction))
