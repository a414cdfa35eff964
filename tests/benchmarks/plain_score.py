"""Scoring the obvious way: a question at a time, and within it a step at a time."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch.nn import functional

from stages.models.finding import Model
from stages.models.loading import prepare_transformers
from stages.parsing import parse_completion
from tests.benchmarks.rollouts import TABLE_FILE


class PlainScorer:
    """Rewards with the default constants, after warm-up; the tokenizer is transformers', the table a torch module."""

    def __init__(self, model: Model) -> None:
        prepare_transformers()
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model.path)
        with safe_open(model.path / TABLE_FILE, "pt") as weights:
            [name] = weights.keys()
            self._table = torch.nn.Embedding.from_pretrained(weights.get_tensor(name))

    def embed(self, step: str) -> torch.Tensor:
        ids = self._tokenizer(step, add_special_tokens=False, return_tensors="pt")["input_ids"][0, :64]
        return functional.normalize(self._table(ids).float().mean(0), dim=0)

    def question(self, completions: list[str]) -> list[float]:
        """The Solver's rewards of one question."""
        parsed = [parse_completion(text, 8) for text in completions]
        counts = Counter(completion.answer_key for completion in parsed if completion.answer_key is not None)
        if not counts:
            return [0.0] * len(parsed)
        dominant, size = counts.most_common(1)[0]
        members = [completion for completion in parsed if completion.answer_key == dominant]
        embedded = [[self.embed(step) for step in completion.steps] for completion in members]
        prototypes = []
        for position in range(max(map(len, embedded), default=0)):
            there = [steps[position] for steps in embedded if position < len(steps)]
            prototypes.append(functional.normalize(torch.stack(there).mean(0), dim=0) if len(there) >= 2 else None)
        density = (size / len(parsed)) ** 0.7
        rewards = []
        for completion in parsed:
            share = counts[completion.answer_key] / len(parsed) if completion.answer_key is not None else 0.0
            excess = min(max((completion.words - 64) / 64, 0.0), 1.0)
            r_answer = share**0.7 * (1 - 0.05 * excess)
            r_step = 0.0
            if completion.answer_key == dominant and size >= 2:
                total = norm = 0.0
                for position, step in enumerate(embedded[members.index(completion)]):
                    if prototypes[position] is not None:
                        weight = math.exp(-0.15 * position)
                        similarity = functional.cosine_similarity(step, prototypes[position], dim=0).item()
                        total += weight * (1 + similarity) / 2
                        norm += weight
                r_step = density * total / norm if norm else 0.0
            rewards.append(0.3 * r_answer + 0.7 * r_step)
        return rewards


def questions(path: Path) -> Iterator[list[str]]:
    """The Solver's completions of each group."""
    columns = ["group_id", "role", "completion"]
    rows: Iterator[dict[str, Any]] = (
        row for batch in pq.ParquetFile(path).iter_batches(columns=columns) for row in batch.to_pylist()
    )
    for _, group in groupby(rows, key=lambda row: row["group_id"]):
        yield [row["completion"] for row in group if row["role"] == "solver"]
