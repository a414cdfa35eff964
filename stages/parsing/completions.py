"""From what a model wrote to what is rewarded: the question, the answer, its canonical key, the steps.

Model text is untrusted: every function is total, and takes time linear in the length of the text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from stages.parsing.keys import answer_key

_TAG = re.compile(r"<[ \t]*+(/?)[ \t]*+(think|answer|question)[ \t]*+>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<[ \t]*+(/?)[ \t]*+([a-z][a-z0-9_-]*+)[ \t]*+>", re.IGNORECASE)


@dataclass(frozen=True)
class Completion:
    """A parsed Solver completion. `answer`, `answer_key` and `answer_start` are None together when there is no answer;
    `starts` and `answer_start` say where in the text each of the `steps` and the answer begin; `words` counts the
    white-space separated words before the answer tag, of the whole text where there is no tag."""

    answer: str | None
    answer_key: str | None
    steps: list[str]
    starts: list[int]
    words: int
    answer_start: int | None


def parse_question(text: str) -> str | None:
    """The content of the first closed question tag, or None when there is none or it is empty."""
    start: int | None = None
    for tag in _TAG.finditer(text):
        if tag[2].lower() != "question":
            continue
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            if question := text[start : tag.start()].strip():
                return question
            start = None
    return None


def parse_tags(text: str) -> dict[str, str]:
    """What stands in each kind of tag, by its name in lower case: the first that is closed and filled; of `answer` the
    one that `parse_completion` finds."""
    found: dict[str, str] = {}
    opened: dict[str, int] = {"think": 0} if _begins_inside(_first_think(_TAG.finditer(text))) else {}
    for tag in _ANY_TAG.finditer(text):
        name = tag[2].lower()
        if not tag[1]:
            opened[name] = tag.end()
        elif name in opened and (content := text[opened.pop(name) : tag.start()].strip()):
            found.setdefault(name, content)
    found.pop("answer", None)
    answer = parse_completion(text).answer
    return found | ({"answer": answer} if answer is not None else {})


def parse_completion(text: str, max_steps: int = 8) -> Completion:
    """Takes a Solver completion apart.

    The answer is the first closed and filled answer tag after the reasoning block: never one inside or before it,
    never an unclosed one, never the last line. The steps come from the reasoning block or, without one, from what
    precedes the answer.
    """
    tags = list(_TAG.finditer(text))
    first_think = _first_think(tags)
    depth = 1 if _begins_inside(first_think) else 0
    opened_at: int | None = 0 if depth else None  # where the first reasoning block's text begins
    end: int | None = None  # and where it ends
    answer_tag: re.Match[str] | None = None
    answer = key = ""
    answer_start = 0
    before = text
    for tag in tags:
        name, closing = tag[2].lower(), bool(tag[1])
        if name == "think":
            answer_tag = None  # an answer tag that holds a think tag is not an answer
            if not closing:
                depth += 1
                opened_at = tag.end() if opened_at is None else opened_at
            elif depth:
                depth -= 1
                if not depth and end is None:
                    end = tag.start()
        elif name == "answer" and not depth and (first_think is None or end is not None):
            if not closing:
                answer_tag = tag
            elif answer_tag is not None:
                before = text[: answer_tag.start()]
                answer_start, answer_end = _stripped(text, answer_tag.end(), tag.start())
                answer = text[answer_start:answer_end]
                if key := answer_key(answer):
                    break
                answer_tag = None
    first = opened_at or 0
    reasoning = text[first:end] if opened_at is not None else before
    spans = step_spans(reasoning)[:max_steps]
    return Completion(
        answer=answer if key else None,
        answer_key=key or None,
        steps=[reasoning[start:stop] for start, stop in spans],
        starts=[first + start for start, _ in spans],
        words=len(before.split()),
        answer_start=answer_start if key else None,
    )


def _first_think(tags: Iterable[re.Match[str]]) -> re.Match[str] | None:
    return next((tag for tag in tags if tag[2].lower() == "think"), None)


def _begins_inside(first_think: re.Match[str] | None) -> bool:
    """Whether the prompt had opened the reasoning block: its first tag is a closing one."""
    return first_think is not None and bool(first_think[1])


# -------------------------------------------------------------------------------------------------- steps

# Possessive quantifiers (`*+`) keep a line of a million spaces from being tried in a million ways.
_STEP_MARKER = re.compile(
    r"""
    (?: <[ \t]*+ step (?:[ \t_-]*+\d{1,4})? (?:[ \t][^<>\n]{0,64})? > [ \t]*+ )   # a step tag
  | ^[ \t]*+ (?:
        (?:[-*+•‣–][ \t]++)? (?P<bold>\*\*|__)? [ \t]*+
        (?: step [ \t]*+ \d{1,4} [ \t]*+ (?P<early>\*\*|__)? [ \t]*+ :         # Step 3:   **Step 3**:
          | \d{1,4} (?: \. (?!\d) | \) )                                       # 3.   3)
        ) (?P<late>\*\*|__)?
      | [-*+•‣–] (?=[ \t])                                                     # a bullet
    ) [ \t]*+
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_STEP_END = re.compile(r"<[ \t]*/[ \t]*step[^<>\n]{0,64}>", re.IGNORECASE)
# Scripts that have 。 have no space behind it, but now and then a closing bracket.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])(?![」』）”’])\s*|(?<=[。！？][」』）”’])\s*|\n+")


def step_spans(reasoning: str) -> list[tuple[int, int]]:
    """Where each reasoning step begins and ends: what follows a marker up to the next, or the sentences where nothing
    is marked; without the white space around them, and without those that are nothing else."""
    markers = list(_STEP_MARKER.finditer(reasoning))
    if markers:
        ends = [marker.start() for marker in markers[1:]] + [len(reasoning)]
        spans = [_marked_step(reasoning, marker, end) for marker, end in zip(markers, ends, strict=True)]
    else:
        gaps = [gap.span() for gap in _SENTENCE_END.finditer(reasoning)]
        starts, ends = [0, *(end for _, end in gaps)], [*(start for start, _ in gaps), len(reasoning)]
        spans = [_stripped(reasoning, start, end) for start, end in zip(starts, ends, strict=True)]
    return [(start, end) for start, end in spans if start < end]


def _marked_step(reasoning: str, marker: re.Match[str], end: int) -> tuple[int, int]:
    closing = _STEP_END.search(reasoning, marker.end(), end)
    start, end = _stripped(reasoning, marker.end(), closing.start() if closing else end)
    if marker["bold"] and not (marker["early"] or marker["late"]):  # the whole line was bold
        return _stripped(reasoning, start, start + len(reasoning[start:end].removesuffix(marker["bold"])))
    return start, end


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    kept = text[start:end].lstrip()
    start = end - len(kept)
    return start, start + len(kept.rstrip())
