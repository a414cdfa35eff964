"""What a completion answers: the text it gives as its answer, and in it an option's letter or a number.

Rules alone, no model judges. Where a completion gives no answer, the functions say None, and that is counted.
"""

import math
import re
from collections.abc import Sequence
from string import ascii_uppercase

from stages.parsing import answer_key, parse_completion

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
    text = answer_text(completion)
    found = _CONCLUSION.findall(text or "")
    if found and found[-1].strip():
        return found[-1].strip()
    return phrase(completion)


def last_boxed(text: str) -> str | None:
    """What the last `\\boxed{…}` holds, braces inside it balanced; None without a closed one."""
    for start in reversed([match.end() for match in re.finditer(r"\\f?boxed\s*\{", text)]):
        depth = 1
        for place in range(start, min(len(text), start + 1000)):
            depth += (text[place] == "{") - (text[place] == "}")
            if not depth:
                return text[start:place].strip() or None
    return None


# ------------------------------------------------------------------------------------------------- options

_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_LEADING = re.compile(r"\W{0,3}(?:\(([A-Za-z])\)|([A-Z])\s*[.):,\n]|([a-z])[.)]\s)")
_BRACKETED = re.compile(r"[(\[{]\s*([A-Z])\s*[)\]}]")
_STANDING = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
_ARTICLE = re.compile(r"A\s+[a-z]")


def option(completion: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that the completion chooses, or None.

    First what follows the last "the answer is", then all of it: a letter by itself, one that it begins with as in
    "B. Mars", or an option's text by itself. Failing these, the last bracketed letter; the last capital that stands
    alone and is no article; the option whose text is named last.
    """
    text = answer_text(completion)
    if text is None:
        return None
    letters = ascii_uppercase[: len(choices)]
    found = _CONCLUSION.findall(text)
    for part in (*found[-1:], text):
        if (letter := _stated(part, letters, choices)) is not None:
            return letter
    bracketed = [letter for letter in _BRACKETED.findall(text) if letter in letters]
    standing = [
        match[1]
        for match in _STANDING.finditer(text)
        if match[1] in letters and not _ARTICLE.match(text, match.start())
    ]
    return next((named[-1] for named in (bracketed, standing) if named), None) or _named(text, letters, choices)


def _stated(text: str, letters: str, choices: Sequence[str]) -> str | None:
    """The option that the text is, or begins with."""
    alone = _ALONE.fullmatch(text)
    leading = None if alone else _LEADING.match(text)
    if match := alone or leading:
        letter = next(group for group in match.groups() if group).upper()
        if letter in letters:
            return letter
    keys = [answer_key(choice) for choice in choices]
    key = answer_key(text)
    return letters[keys.index(key)] if key and keys.count(key) == 1 and keys.index(key) < len(letters) else None


def _named(text: str, letters: str, choices: Sequence[str]) -> str | None:
    """The option whose text is named last; of two that end at one place the longer."""
    lowered = text.lower()
    ends = []
    for letter, choice in zip(letters, choices, strict=False):
        wanted = choice.strip().lower()
        places = [match.end() for match in re.finditer(rf"(?<!\w){re.escape(wanted)}(?!\w)", lowered)] if wanted else []
        if places:
            ends.append((places[-1], len(wanted), letter))
    return max(ends)[2] if ends else None


# ------------------------------------------------------------------------------------------------- numbers

_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?(?![\d])")


def numbers(text: str) -> list[float]:
    """The numbers in a text, in order; thousands separators and a sign belong to them, units do not."""
    plain = text.replace("−", "-")
    found = (float(match[0].replace(",", "")) for match in _NUMBER.finditer(plain) if match[0] not in ("", "-"))
    return [number for number in found if math.isfinite(number)]


def last_number(completion: str) -> str | None:
    """The number a completion ends on, of its conclusion where it has one; as digits, or None."""
    text = answer_text(completion) or ""
    found = numbers((_CONCLUSION.findall(text) or [""])[-1]) or numbers(text)
    return f"{found[-1]:.15g}" if found else None
