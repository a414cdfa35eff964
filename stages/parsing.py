"""From what a model wrote to what is rewarded: the question, the answer, its canonical key, the steps.

Model text is untrusted: every function is total, and takes time linear in the length of the text.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from stages.notation import plain

_TAG = re.compile(r"<[ \t]*+(/?)[ \t]*+(think|answer|question)[ \t]*+>", re.IGNORECASE)


@dataclass(frozen=True)
class Completion:
    """A parsed Solver completion. `answer` and `answer_key` are both None when there is no answer; `starts` says where
    in the text each of the `steps` begins; `words` counts the white-space separated words before the answer tag (of
    the whole text without one)."""

    answer: str | None
    answer_key: str | None
    steps: list[str]
    starts: list[int]
    words: int


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


def parse_completion(text: str, max_steps: int = 8) -> Completion:
    """Takes a Solver completion apart.

    The answer is the first closed and filled answer tag after the reasoning block: never one inside or before it,
    never an unclosed one, never the last line. The steps come from the reasoning block or, without one, from what
    precedes the answer.
    """
    tags = list(_TAG.finditer(text))
    first_think = next((tag for tag in tags if tag[2].lower() == "think"), None)
    # Where the first think tag is a closing one, the prompt had opened the block already.
    depth = 1 if first_think is not None and first_think[1] else 0
    opened_at: int | None = 0 if depth else None  # where the first reasoning block's text begins
    end: int | None = None  # and where it ends
    answer_tag: re.Match[str] | None = None
    answer = key = ""
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
                answer = text[answer_tag.end() : tag.start()].strip()
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
    )


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
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")


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


# ------------------------------------------------------------------------------------------------ answers

LONGEST_ANSWER = 1000  # characters
MAX_WRAPPING = 32  # layers of outer punctuation that are peeled: more is an attack, not an answer
_SIMPLEST = re.compile(r"[A-Za-z]+|[0-9]+")
_STOPS = ".,;:!? "
_LEADING = re.compile(r"^(?:[,;:?\s]|!(?!=)|\.(?!\d))+")
_FACTORIAL = re.compile(r"(?:\d|[\d+*/^-][^()]*\)|^[k-z])$")
_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"', "'": "'", "`": "`", "$": "$", "*": "*", "_": "_"}
_DIGIT, _WORD = re.compile(r"\d"), re.compile(r"[^\W\d_]{2}")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_TIMES = re.compile(r"(?<=\d) ?[*x] ?(?=\d)")
_OPTION = re.compile(r"\(?([a-z])[).:]*")
_OPTION_PREFIX = re.compile(
    r"(?:\(([a-z])\)[.:]?|([a-z])[).:])[ ]+(?=\S)|\(?([a-z])[).:,][ ]*(?=[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])"
)
_LOOSE_SPACE = re.compile(r"(?<![^\W\d_]) +| +(?![^\W\d_])")
# Without these spaces two numbers would be one: 1 2, 3. 5, and 100, 200.
_GAP = re.compile(r"(?<=\d) +(?=\d|\.\d|,\d{3}(?!\d))|(?<=\d\.) +(?=\d)|(?<=\d,) +(?=\d{3}(?!\d))")
_TIGHT_LIST = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # what `plain` has left is no separator of thousands


def answer_key(answer: str) -> str:
    """The canonical form by which answers are compared; empty when nothing of substance is left.

    Kept, because they carry meaning: sign, decimal point, percent, currency, units, and the brackets of a list.
    Dropped: case, spacing, outer punctuation, thousands separators, LaTeX, the typography of other scripts, option
    decoration. 3.0 is 3 and .5 is 0.5; nothing else is computed. What is longer than any answer is compared as it
    stands, but for case and spacing.
    """
    key = answer.strip()
    if len(key) > LONGEST_ANSWER:
        key = " ".join(key.split())
        if len(key) > LONGEST_ANSWER:
            return key.casefold() if any(map(str.isalnum, key)) else ""
    return _canonical(key)


@lru_cache(maxsize=4096)  # the same answers come again and again
def _canonical(key: str) -> str:
    for _ in range(MAX_WRAPPING):  # peeling one layer can bare the next
        if _SIMPLEST.fullmatch(key):
            return key.lower()
        key, before = _simplify(key), key
        if key == before:
            break
    return key


def _simplify(answer: str) -> str:
    # NFC once more: casefold can leave what composes differently
    text = _peel(" ".join(unicodedata.normalize("NFC", plain(answer).casefold()).split()))
    if option := _OPTION.fullmatch(text):
        return option[1]
    if prefix := _OPTION_PREFIX.match(text):
        text = f"{prefix[1] or prefix[2] or prefix[3]} {text[prefix.end() :]}"
    if _DIGIT.search(text):
        text = _GAP.sub("\0", _DECIMAL.sub(_shorten_decimal, _TIMES.sub("×", text)))
    # All spaces but those between two letters and between two numbers carry no meaning.
    text = _TIGHT_LIST.sub(", ", _LOOSE_SPACE.sub("", text).replace("\0", " "))
    return "0" if text == "-0" else text


def _peel(text: str) -> str:
    """Removes outer punctuation, all there is at either end; a sign, a factorial, or a point before a digit, stays."""
    kept = text.rstrip(_STOPS)
    stops = text[len(kept) :]
    if stops.startswith("!") and _FACTORIAL.search(kept[-99:]):
        kept += "!" * (len(stops) - len(stops.lstrip("!")))
    text = _LEADING.sub("", kept)
    depth = 0  # of paired marks around the whole
    while depth < min(MAX_WRAPPING, len(text) // 2) and _is_pair(text, depth):
        depth += 1
    text = text[depth : len(text) - depth] if depth else text
    return "" if text and all(character in "*_`\"'()[]{}<>$" for character in text) else text.strip()


def _is_pair(text: str, depth: int) -> bool:
    """Whether the mark that opens at `depth` closes at the mirrored place, and not before: not in "(a) (b)". The
    brackets of a list are none: (1, 2) is a point, [1, 2] an interval, {1, 2} a set."""
    opening, closing = text[depth], _PAIRS.get(text[depth])
    if text[-1 - depth] != closing:
        return False
    inside = text[depth + 1 : len(text) - depth - 1]
    if opening == closing:
        return opening not in inside or inside[:1] == inside[-1:] == opening
    if ("," in inside or ";" in inside) and (_DIGIT.search(inside) or not _WORD.search(inside)):
        return False
    level = 1
    for character in inside:
        level += (character == opening) - (character == closing)
        if not level:
            return False
    return True


def _shorten_decimal(match: re.Match[str]) -> str:
    whole, fraction = match[1] or "0", match[2].rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
