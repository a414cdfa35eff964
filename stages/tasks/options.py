"""The letter of the option that a completion chooses, read alike for every letter.

A letter counts wherever it stands for itself. It does not where it is part of something else: of the text of an option
("vitamin C"), of a unit ("5 A"), of an abbreviation ("U.S."), or where it is the article A or the pronoun I.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase

from stages.parsing import answer_key
from stages.parsing.notation import plain
from stages.tasks.answers import answer_text, concluded

# Letters and digits that run together into words: not those of scripts that are written without spaces.
_IN_WORD = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_STANDING = re.compile(
    rf"(?<!{_IN_WORD}) (?<!\w[-'/&.]) (?<!\d\s) (?<!°) (?<!°\s) (?<!%\s) ([A-Z]) "
    rf"(?!{_IN_WORD} | ['/&.-]{_IN_WORD} | [+\#] | \s*[=<>^])",
    re.VERBOSE,
)
_CUED = re.compile(rf"\b(?:option|choice|letter)\s+[(\[\"'*]*([A-Za-z])(?!{_IN_WORD}|['.-]{_IN_WORD})", re.IGNORECASE)
_BRACKETED = re.compile(r"(?<!\w)[(\[{]\s*([A-Za-z])\s*[)\]}]")
_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_LEADING = re.compile(r"\W{0,3}(?:\(([A-Za-z])\)|([A-Z])\s*(?:[.)](?![A-Za-z]\.)|[:\n]|,(?!\s*[A-Z]\b))|([a-z])[.)]\s)")
_LEAD_IN = re.compile(r"\W*(?:(?:the|correct|right|best|option|choice|letter|answer)\s+)*[(\[\"'*$]*", re.IGNORECASE)
_OR_ANOTHER = re.compile(r"\W*(?:or|and|/|,|&)\s*\W?[A-Z]\b")

# What follows an option's letter but no article: verbs, told by their ending, and words of these kinds.
_FOLLOWS = re.compile(
    r"(?:is|was|are|were|be|being|as|it|its|because|since|for|and|or|but|so|if|when|while|that|which|this|these|those|would"
    r"|should|could|cannot|must|may|might|will|has|had|have|does|did|do|not|too|here|there|again|instead|alone|both|in|on"
    r"|at|by|with|from|to|of|than|over|under|rather|due|based|according|the|we|i|you|he|she|they|my|our|their|therefore"
    r"|thus|hence|then|unless|until|where|whereas|after|before|can\s+(?:be|not|only|also))(?![\w'-])",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"(?!(?:lens|series|species|sports|news|savings|goods|customs|headquarters|crossroads|pants)$)"
    r"[a-z]+s(?<!ss)(?<!us)(?<!is)(?<!as)(?<!os)(?<!ics)"
)
_ADVERB = re.compile(
    r"best|better|most|clearly|correctly|likely|probably|definitely|certainly|obviously|accurately|closely|directly"
    r"|really|simply|exactly|perfectly|actually|also|still|just"
)
_BEHIND_I = re.compile(r"is|as|because|since|which|fits|matches|seems|shows")  # and not behind the pronoun
_CUE = re.compile(r"(?:option|choice|answer|letter)\W*$", re.IGNORECASE)
_NEXT_WORD = re.compile(r"\s+([A-Za-z]+)(?![\w'-])")


def option(completion: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that the completion chooses, or None."""
    text = answer_text(completion)
    return None if text is None else option_in(text, choices)


def option_in(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that an answer chooses, or None.

    First what follows the last "the answer is", then all of it: a letter by itself, an option's text by itself, or the
    letter that it begins with. Failing these, the last letter called an option; the last in brackets; the last that
    stands alone; the option whose text is named last.
    """
    options = {
        letter: re.sub(rf"\W*{letter}[.):]\s+", "", plain(choice).strip().rstrip(".").rstrip(), count=1)
        for letter, choice in zip(ascii_uppercase, choices, strict=False)
    }
    if conclusion := plain(concluded(text)):
        said = _Said(conclusion, options)
        if letter := said.stated() or said.first():
            return letter
    said = _Said(plain(text), options)
    return said.stated() or said.last()


class _Said:
    """A text and the options in it, `options` letter to plain text."""

    def __init__(self, text: str, options: Mapping[str, str]) -> None:
        self._text, self._options = text, options
        named = _texts(options)
        self._named = list(named.finditer(text)) if named else []
        self._without = named.sub(lambda match: "\0" * len(match[0]), text) if named else text

    def stated(self) -> str | None:
        """The option that the text is, or whose letter it sets in front."""
        if (alone := _ALONE.fullmatch(self._text)) and alone[1].upper() in self._options:
            return alone[1].upper()
        key = answer_key(self._text)
        same = [letter for letter, choice in self._options.items() if key and answer_key(choice) == key]
        if len(same) == 1:
            return same[0]
        if leading := _LEADING.match(self._without):
            place, letter = next((leading.start(group), leading[group]) for group in (1, 2, 3) if leading[group])
            if letter.upper() in self._options and not (letter == "I" and _is_word(self._text, place)):
                return letter.upper()
        return None

    def first(self) -> str | None:
        """The option that the text begins with, by letter or by text; none where it goes on with another's letter."""
        start = _LEAD_IN.match(self._text).end()  # type: ignore[union-attr]
        for end, letter in self._letters(_STANDING):
            if end == start + 1:
                return None if _OR_ANOTHER.match(self._text, end) else letter
        return next((match.lastgroup for match in self._named if match.start() <= start < match.end()), None)

    def last(self) -> str | None:
        """The option that is mentioned last, by letter or, where no letter is, by text."""
        for pattern in (_CUED, _BRACKETED, _STANDING):
            if letters := list(self._letters(pattern)):
                return letters[-1][1]
        return self._named[-1].lastgroup if self._named else None

    def _letters(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
        """Where each letter that stands for an option ends, and the letter: of those that the pattern finds."""
        for match in pattern.finditer(self._without):
            letter = match[1].upper()
            if letter in self._options and (pattern is _BRACKETED or not _is_word(self._text, match.start(1))):
                yield match.end(1), letter


def _texts(options: Mapping[str, str]) -> re.Pattern[str] | None:
    """What finds the options' whole texts, each in a group of its letter's name, the longest first; None without any.
    A text that is a letter itself is not looked for, and 5 does not stand in 2.5, 1/5 or -5."""
    patterns = []
    for letter, text in sorted(options.items(), key=lambda option: -len(option[1])):
        if text and not re.fullmatch("[A-Za-z]", text):
            whole = r"(?<!\d[.,/:^-])(?<![./^-])" if text[0].isdigit() else ""
            patterns.append(rf"(?P<{letter}>{whole}{re.escape(text)})")
    together = "|".join(patterns)
    return re.compile(rf"(?<!{_IN_WORD})(?:{together})(?!{_IN_WORD}|[.,/:^]\d)", re.IGNORECASE) if together else None


def _is_word(text: str, place: int) -> bool:
    """Whether the letter there is the article A or the pronoun I."""
    letter = text[place]
    if letter not in "AaI" or (letter != "a" and _CUE.search(text[max(0, place - 20) : place])):
        return False
    if letter == "A" and re.match(r"\s\d", text[place + 1 : place + 3]):
        return True
    following = _NEXT_WORD.match(text, place + 1)
    while following and _ADVERB.fullmatch(following[1].lower()):
        following = _NEXT_WORD.match(text, following.end())
    if not following:
        return letter == "I" and text[place + 1 : place + 2] == ","
    word = following[1].lower()
    if letter == "I":
        return not _BEHIND_I.fullmatch(word)
    return not (_FOLLOWS.match(text, following.start(1)) or _VERB.fullmatch(word))
