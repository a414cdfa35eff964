"""The canonical form by which answers are compared."""

import re
import unicodedata
from functools import lru_cache

from stages.parsing.notation import plain

LONGEST_ANSWER = 1000  # characters
MAX_WRAPPING = 32  # layers of outer punctuation that are peeled: more is an attack, not an answer
_SIMPLEST = re.compile(r"[A-Za-z]+|[0-9]+")
_STOPS = ".,;:!? "
_LEADING = re.compile(r"^(?:[,;:?\s]|!(?!=)|\.(?!\d))+")
_FACTORIAL = re.compile(r"(?:\d|[\d+*/^-][^()]*\)|^[k-z])$")
_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"', "'": "'", "`": "`", "$": "$", "*": "*", "_": "_"}
_DIGIT, _WORD = re.compile(r"\d"), re.compile(r"[^\W\d_]{2}")
# Not the full stop of an abbreviation: Sept. 30 is not Sept. 3.
_DECIMAL = re.compile(r"(?<![\d.])(?<![^\W\d_](?=\.))(\d*)\.(\d+)(?![\d.])")
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
