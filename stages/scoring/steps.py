"""The reasoning steps of a block, and how like they are to their group's."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stages.embedding import Step, StepEmbedder
from stages.rewards.step import compared_steps, step_similarity
from stages.scoring.cells import Cells
from stages.scoring.said import Said

STEPS_AT_ONCE = 512  # bounds the [steps, width] and [tokens, width] arrays in memory


@dataclass(frozen=True)
class Steps:
    """Of each step, all of them: rollout, position [S] int; similarity [S]: cosine to its prototype, NaN without one.
    counts [R] int: how many each rollout has."""

    rollout: np.ndarray
    position: np.ndarray
    similarity: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(block: pa.Table, cells: Cells, said: Said, member: np.ndarray, embedder: StepEmbedder) -> "Steps":
        """Those of a `member` [R] bool are compared, with the members of its cell."""
        counts = np.array([len(completion.steps) for completion in said.parsed], dtype=np.int64)
        rollout = np.repeat(np.arange(len(counts)), counts)
        position = np.arange(len(rollout)) - np.repeat(np.cumsum(counts) - counts, counts)
        found = [
            Step(place, start, text)
            for place, completion in zip(cells.row, said.parsed, strict=True)
            for start, text in zip(completion.starts, completion.steps, strict=True)
        ]
        similarity = np.full(len(rollout), np.nan)
        compared, prototype = compared_steps(rollout, position, cells.cell, member)
        for span in _spans(cells.cell[rollout[compared]], STEPS_AT_ONCE):
            embedding = embedder.embed([found[step] for step in compared[span]], block)
            similarity[compared[span]] = step_similarity(embedding, prototype[span] - prototype[span.start])
        return Steps(rollout, position, similarity, counts)

    def lists(self, member: np.ndarray) -> list[list[float | None] | None]:
        """The similarities of each rollout's steps; None of one that is no `member` [R] bool."""
        values = [None if np.isnan(value) else value for value in self.similarity.tolist()]
        ends = np.cumsum(self.counts).tolist()
        return [
            values[end - count : end] if inside else None
            for end, count, inside in zip(ends, self.counts.tolist(), member.tolist(), strict=True)
        ]


def _spans(group: np.ndarray, size: int) -> Iterator[slice]:
    """Spans of about `size` steps, none of which parts those of one group; group [K]: the group of each, ascending."""
    starts = np.flatnonzero(np.diff(group, prepend=-1, append=-1))  # the end is one more
    first = 0
    while first < len(group):
        last = int(starts[max(np.searchsorted(starts, first + size, "right") - 1, np.searchsorted(starts, first) + 1)])
        yield slice(first, last)
        first = last
