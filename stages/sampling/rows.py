"""What the stages that sample have in common: their settings, what they record, and rows meeting their samples."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stages.contract import Role
from stages.models.finding import Model
from stages.prompts import load_prompt
from stages.sampling import (
    Decoding,
    EngineOptions,
    Engines,
    Pixels,
    Request,
    Sample,
    Sampler,
    SamplerName,
    open_sampler,
    resolve_sampler,
)

Row = dict[str, Any]
T = TypeVar("T")

NOT_FINITE = "a log-probability is not finite"


@dataclass(frozen=True)
class SamplingParams:
    """How completions were sampled, as a shard records it. `prompt` is the prompt's text."""

    prompt: str
    sampler: SamplerName
    temperature: float
    top_p: float
    max_tokens: int
    min_pixels: int | None
    max_pixels: int | None


@dataclass(frozen=True)
class SamplingSettings:
    """How the user wants completions sampled; None leaves the choice to the model folder or the machine."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    prompt: Path | None = None
    sampler: SamplerName | None = None
    pixels: Pixels = field(default_factory=Pixels)
    engine: EngineOptions = field(default_factory=EngineOptions)

    def resolve(self, role: Role, model: Model) -> SamplingParams:
        return SamplingParams(
            prompt=load_prompt(role, model.path, self.prompt),
            sampler=resolve_sampler(self.sampler),
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            min_pixels=self.pixels.min_pixels,
            max_pixels=self.pixels.max_pixels,
        )

    def open(self, model: Model, adapter: Path | None, engines: Engines = open_sampler, max_images: int = 1) -> Sampler:
        return engines(resolve_sampler(self.sampler), model, adapter, self.pixels, self.engine, max_images)

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.temperature, self.top_p, self.max_tokens)


def with_samples(
    sampler: Sampler, decoding: Decoding, rows: Iterable[tuple[T, Request | None]]
) -> Iterator[tuple[T, Sample | None]]:
    """Pairs every row with the sample of its request, in order; rows without a request pass through.

    Rows are drawn, and their images decoded, only as the sampler asks for more.
    """
    waiting: deque[tuple[T, bool]] = deque()

    def requests() -> Iterator[Request]:
        for row, request in rows:
            waiting.append((row, request is not None))
            if request is not None:
                yield request

    for sample in sampler.sample(requests(), decoding):
        while not waiting[0][1]:
            yield waiting.popleft()[0], None
        yield waiting.popleft()[0], sample
    for row, _ in waiting:
        yield row, None


def sample_columns(sample: Sample) -> Row:
    """The columns of a trajectory row that come from the sampler. Where the engine gave a log-probability that is no
    number, the row keeps its text but no tokens, so that it is never learned from."""
    columns: Row = {"completion": sample.text, "finish_reason": sample.finish_reason}
    if all(map(math.isfinite, sample.logprobs)):
        return {**columns, "token_ids": sample.token_ids, "logprobs": sample.logprobs}
    return {**columns, "reject_reason": NOT_FINITE}
