"""Steps as the policy itself saw them: hidden states over a step's tokens, in their real context.

What the model read when it sampled them is run again: image, prompt, and the stored token_ids. Each group is run by
itself, its prompt once and the completions behind it, so that no number depends on which groups come together.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import torch

from stages.contract import Row
from stages.embedding import TOKENS_PER_STEP, Step
from stages.errors import DataError, EngineError
from stages.learning.contexts import Context
from stages.learning.rereading import COLUMNS, Reader
from stages.models.device import memory_bounded
from stages.models.spans import named, token_spans


class HiddenEmbedder:
    """e but for its length: the mean of the middle layer's hidden states over a step's first 64 tokens, made a unit
    vector, less the mean of those of its group.

    docs/evidence.md has the reasons: the last layer sees no more, for twice the work; and without centring, agreement
    and disagreement earn almost the same, since the hidden states of a group's steps are so alike.
    """

    def __init__(self, reader: Reader) -> None:
        """`reader` is of the policy that sampled the rollouts whose steps are embedded."""
        self._reader = reader

    @property
    def depth(self) -> int:
        """How many layers the model has."""
        return self._reader.policy.depth

    def embed(self, steps: Sequence[Step], block: pa.Table) -> np.ndarray:
        """[S, width], float32. The steps of one group must come together, and all at once.

        Zero for those of a row without tokens, where its reject_reason says why it has none. Raises DataError for
        rows that have none without a reason, or whose tokens are not what the completion says, and for images that are
        not the recorded ones; EngineError for states that are not finite, and when the device's memory runs out.
        """
        numbers = sorted({step.row for step in steps})
        rows: dict[int, Row] = dict(zip(numbers, block.select(COLUMNS).take(numbers).to_pylist(), strict=True))
        by_group = groupby(steps, key=lambda step: rows[step.row]["group_id"])
        parts = [self._embed_group(list(own), rows) for _, own in by_group]
        return np.concatenate([np.zeros((0, self._reader.width), np.float32), *parts])

    def _embed_group(self, steps: list[Step], rows: Mapping[int, Row]) -> np.ndarray:
        embeddings = np.zeros((len(steps), self._reader.width), np.float32)
        behind: dict[Context, list[int]] = {}  # rows by what the model was shown
        for number in dict.fromkeys(step.row for step in steps):
            if self._has_tokens(row := rows[number]):
                behind.setdefault(self._reader.contexts.sampled(row), []).append(number)
        for alike in behind.values():
            states = self.states([rows[number] for number in alike], self.depth // 2)
            for number, of_row in zip(alike, states, strict=True):
                starts, ends = token_spans(self._reader.model.tokenizer, rows[number])
                for place, step in enumerate(steps):
                    if step.row == number:
                        embeddings[place] = of_row[tokens_of(step, starts, ends)].mean(0)
        if not np.isfinite(embeddings).all():
            raise EngineError(f"group {rows[steps[0].row]['group_id']}: its hidden states are not finite")
        return centred(steps, embeddings)

    def states(self, rows: Sequence[Row], depth: int) -> Iterator[np.ndarray]:
        """The hidden states [L_i, width], float32, after `depth` layers at each token of the completions of Solver
        rows that were shown the same, a few rows at a time. Raises as `embed` does."""
        if not rows:
            return
        reader, first = self._reader, rows[0]
        prompt = reader.prompt(reader.contexts.sampled(first), first)
        completions = [torch.tensor(row["token_ids"]) for row in rows]
        with memory_bounded("stop what else runs on it, or use --embedding static"):
            for states in reader.policy.token_states(prompt, completions, reader.role, depth):
                yield states.float().cpu().numpy()

    def _has_tokens(self, row: Row) -> bool:
        if not row["token_ids"]:
            if row["reject_reason"]:
                return False
            raise DataError(f"{named(row)}: has no token_ids to find hidden states for; use --embedding static")
        self._reader.check(row)
        return True


def centred(steps: Sequence[Step], embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [S, width] of a group's steps as unit vectors, less their mean: what all steps share is left out.

    What is zero stays so. Where every row has only one step, what these share is what they agree on, and is left in.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)
    if len({step.row for step in steps}) == len(steps):
        return unit
    there = lengths[:, 0] > 0
    unit[there] -= unit[there].mean(0)
    return unit


def tokens_of(step: Step, starts: np.ndarray, ends: np.ndarray) -> slice:
    """The first 64 tokens of a step, those included that it shares with what is beside it."""
    inside = np.flatnonzero((ends > step.start) & (starts < step.start + len(step.text)))
    return slice(int(inside[0]), int(inside[min(len(inside), TOKENS_PER_STEP) - 1]) + 1)
