"""The columns of `--credit`: the rollouts as paths of parts, and what an estimator makes of each part."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stages.contract import CREDIT, Row
from stages.models.finding import Model
from stages.models.spans import token_spans
from stages.parsing import Completion, answer_key
from stages.rewards import credit
from stages.rewards.paths import ANSWER_PLACE, Paths

if TYPE_CHECKING:
    from stages.scoring.beliefs import Beliefs

COLUMNS = ("group_id", "role", "pass", "sample_index", "completion", "token_ids")


class StepCredit:
    """An estimator, and what it needs of a model: the tokenizer, and the beliefs of the base where it asks for them."""

    def __init__(self, name: str, model: Model, beliefs: "Beliefs | None" = None) -> None:
        self._estimator = credit.load(name)
        self._tokenizer = model.tokenizer
        self._beliefs = beliefs

    def columns(
        self,
        block: pa.Table,
        places: np.ndarray,
        group: np.ndarray,
        reward: np.ndarray,
        completions: Sequence[Completion],
    ) -> dict[str, pa.Array]:
        """CREDIT of a block's rows, null but at the `places` [R] of those that are learned from, which have tokens.

        Of each of these: group [R] int, equal where they are compared; reward [R]; their completions. Raises DataError
        for rows whose tokens are not their completion's, and as `Beliefs` does.
        """
        rows: list[Row] = block.select(COLUMNS).take(places).to_pylist()
        spans = [token_spans(self._tokenizer, row) for row in rows]
        begins = [first_tokens(completion, ends) for completion, (_, ends) in zip(completions, spans, strict=True)]
        beliefs = [np.full(len(own), np.nan) for own in begins]
        if self._beliefs:
            logprobs = self._beliefs.of(block, places)
            beliefs = [weakest(*each) for each in zip(completions, rows, spans, logprobs, strict=True)]
        parts = np.array([len(own) for own in begins], np.int64)
        tokens = [np.diff(own, append=len(row["token_ids"])) for own, row in zip(begins, rows, strict=True)]
        paths = Paths(
            group=group,
            reward=reward,
            rollout=np.repeat(np.arange(len(rows)), parts),
            place=_joined([np.append(np.arange(count - 1), ANSWER_PLACE) for count in parts], np.int64),
            like=likeness(completions),
            tokens=_joined(tokens, np.int64),
            belief=_joined(beliefs, np.float64),
        )
        credits = np.split(self._estimator(paths), np.cumsum(parts)[:-1]) if len(rows) else []
        return {
            column.name: _spread(places, values, len(block), column.type)
            for column, values in zip(CREDIT, (credits, begins), strict=True)
        }


def likeness(completions: Sequence[Completion]) -> np.ndarray:
    """A number from 0 for each step and, last, the answer of each completion, equal where their texts are alike   [E]

    What says no answer is like nothing, not even like what says none either.
    """
    numbers: dict[str, int] = {}
    found = []
    for place, completion in enumerate(completions):
        answer = f"\0{place}" if completion.answer_key is None else completion.answer_key
        for said in (*map(answer_key, completion.steps), answer):
            found.append(numbers.setdefault(said, len(numbers)))
    return np.array(found, np.int64)


def first_tokens(completion: Completion, ends: np.ndarray) -> np.ndarray:
    """The first token of each step and of the answer, ascending   [J + 1]

    ends [L ≥ 1]: where in the text each token ends. That one which holds a part's first character; what precedes the
    first part belongs to it, and the last token to the answer, be there one or not.
    """
    answer = ends.max() if completion.answer_start is None else completion.answer_start
    first = np.searchsorted(np.maximum.accumulate(ends), [*completion.starts, answer], side="right")
    first[0] = 0
    return np.minimum(first, len(ends) - 1)


def weakest(completion: Completion, row: Row, spans: tuple[np.ndarray, np.ndarray], logprobs: np.ndarray) -> np.ndarray:
    """The least log-probability of a content token of each step and of the answer, NaN where there is none   [J + 1]

    A content token is one with a letter or a digit in it, within the part's own text; logprobs [L], nats.
    """
    starts, ends = spans
    text = row["completion"] or ""
    content = np.array([any(map(str.isalnum, text[start:end])) for start, end in zip(starts, ends, strict=True)])
    parts = [*zip(completion.starts, completion.steps, strict=True), (completion.answer_start or 0, completion.answer)]
    found = np.full(len(parts), np.nan)
    for place, (start, said) in enumerate(parts):
        inside = content & (ends > start) & (starts < start + len(said or ""))
        if inside.any():
            found[place] = logprobs[inside].min()
    return found


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *parts])


def _spread(places: np.ndarray, values: Sequence[np.ndarray], rows: int, kind: pa.DataType) -> pa.Array:
    """[rows], null but at `places`."""
    found: list[np.ndarray | None] = [None] * rows
    for place, own in zip(places.tolist(), values, strict=True):
        found[place] = own
    return pa.array(found, kind)
