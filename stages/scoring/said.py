"""What the rollouts of a block say, and how likely it was to be sampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.parsing import Completion, parse_completion
from stages.rewards.consensus import NO_ANSWER
from stages.scoring.cells import Cells


@dataclass(frozen=True)
class Said:
    """Of each rollout [R]: texts, the completions; parsed, what is in them; key int64, equal where the canonical
    answers are, NO_ANSWER without one; tokens int64, how many were sampled, 0 where none are recorded; logprob,
    weakest: the sum and the least of their log-probabilities, nats, NaN where there are none. numbers: the key of each
    canonical answer."""

    texts: list[str]
    parsed: list[Completion]
    key: np.ndarray
    tokens: np.ndarray
    logprob: np.ndarray
    weakest: np.ndarray
    numbers: dict[str, int]

    @staticmethod
    def of(block: pa.Table, cells: Cells, max_steps: int) -> "Said":
        texts = [text or "" for text in block["completion"].take(cells.row).to_pylist()]
        parsed = [parse_completion(text, max_steps) for text in texts]
        numbers: dict[str, int] = {}
        key = _keys([completion.answer_key for completion in parsed], numbers)
        return Said(texts, parsed, key, *_likelihoods(block["logprobs"].take(cells.row)), numbers)

    @property
    def answers(self) -> list[str | None]:
        """The canonical answers   [R]"""
        return [completion.answer_key for completion in self.parsed]

    def keys(self, answers: Sequence[str | None]) -> np.ndarray:
        """The keys of canonical answers that may be among those that were said   [len(answers)] int64"""
        return _keys(answers, self.numbers)


def _keys(answers: Sequence[str | None], numbers: dict[str, int]) -> np.ndarray:
    """By `numbers`, to which new answers are added."""
    return np.array(
        [NO_ANSWER if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers],
        dtype=np.int64,
    )


def _likelihoods(logprobs: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many there are, their sum and the least of them   [R] each"""
    stored = logprobs.combine_chunks()
    tokens = pc.fill_null(pc.list_value_length(stored), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = pc.list_flatten(stored).to_numpy(zero_copy_only=False).astype(np.float64)
    total, least = np.full((2, len(tokens)), np.nan)
    some = tokens > 0
    total[some] = np.bincount(np.repeat(np.arange(len(tokens)), tokens), values, minlength=len(tokens))[some]
    least[some] = np.minimum.reduceat(values, (np.cumsum(tokens) - tokens)[some])
    return tokens, total, least
