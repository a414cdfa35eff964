"""What a completion answers: the text it gives as its answer.

Rules alone, no model judges. Where a completion gives no answer, the functions say None, and that is counted.
"""

import re

from stages.parsing import parse_completion

LONGEST_PHRASE = 50  # words of an answer given without any tag: what is longer is talk, not an answer
_THINK = re.compile(r"<think>.*?</think>|^(?:(?!<think>).)*?</think>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_CONCLUSION = re.compile(
    r"\b(?:answer|option|choice)(?:\s+(?:is|should be|would be|must be)\b|\s*[:：])[ \t:：]*([^\n]*)", re.IGNORECASE
)


def answer_text(completion: str) -> str | None:
    """The content of the answer tag after the reasoning; without one, of the last `\\boxed{}`; without that, all
    that stands outside the reasoning. None when nothing does, or a tag is left open."""
    if tagged := parse_completion(completion).answer:
        return last_boxed(tagged) or tagged
    outside = _THINK.sub("", completion).strip()
    if _TAG.search(outside):
        return None
    return last_boxed(outside) or outside or None


def phrase(completion: str) -> str | None:
    """The answer where it is free text: `answer_text`, if it has at most LONGEST_PHRASE words."""
    text = answer_text(completion)
    return text if text and len(text.split()) <= LONGEST_PHRASE else None


def conclusion(completion: str) -> str | None:
    """`answer_text` or, where that is a passage, what follows its last "the answer is"; None without one."""
    return concluded(answer_text(completion) or "") or phrase(completion)


def concluded(text: str) -> str:
    """What follows the last "the answer is", empty without one."""
    found = _CONCLUSION.findall(text)
    return found[-1].strip() if found else ""


def last_boxed(text: str) -> str | None:
    """What the last `\\boxed{…}` holds, braces inside it balanced; None without a closed one."""
    for start in reversed([match.end() for match in re.finditer(r"\\f?boxed\s*\{", text)]):
        depth = 1
        for place in range(start, min(len(text), start + 1000)):
            depth += (text[place] == "{") - (text[place] == "}")
            if not depth:
                return text[start:place].strip() or None
    return None
