"""What a model wrote, read: questions, answers and steps (`completions`), the form in which answers are compared
(`keys`), and one plain spelling for the many of text and numbers (`notation`)."""

from stages.parsing.completions import Completion, parse_completion, parse_question, parse_tags, step_spans
from stages.parsing.keys import answer_key

__all__ = ["Completion", "answer_key", "parse_completion", "parse_question", "parse_tags", "step_spans"]
