"""What the stages that sample have in common: how they ask, what they record, and rows meeting their samples."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stages.contract import Role, Row
from stages.errors import UsageError
from stages.job import Start
from stages.parameters.rollout import AdapterChoice
from stages.parameters.sampling import Decoding, SamplerName, Sampling
from stages.prompts import load_prompt
from stages.sampling.interface import Engines, Refused, Request, Sample, Sampler, Wanted
from stages.sampling.opening import resolve_sampler

T = TypeVar("T")

NOT_FINITE = "a log-probability is not finite"


@dataclass(frozen=True)
class Asking:
    """How a stage asks: its sampling settings, with what they leave to the model folder and to the machine settled."""

    role: Role
    start: Start
    settings: Sampling
    prompt: str
    sampler: SamplerName
    adapter: Path | None

    @staticmethod
    def settled(
        role: Role, start: Start, settings: Sampling, whose: AdapterChoice | None = None, asks: bool = True
    ) -> "Asking":
        """`whose` adapter answers, the role's own by default; `asks`: the prompt needs a place for the question.

        Raises UsageError and EngineError as `load_prompt` and `resolve_sampler` do, and UsageError for a teacher that
        the policy has not.
        """
        prompt = load_prompt(role, start.model.path, settings.prompt, asks)
        adapter = _adapter(start, whose or role)
        return Asking(role, start, settings, prompt, resolve_sampler(settings.sampler, start.model, adapter), adapter)

    def recorded(self) -> dict[str, Any]:
        """What a shard records of it, beside the settings."""
        return {"prompt": self.prompt, "sampler": self.sampler}

    def open(self, engines: Engines, max_images: int = 1) -> "closing[Sampler]":
        """The engine, with the adapter; closed where the block ends. Raises EngineError as it does."""
        settings, model = self.settings, self.start.model
        wanted = Wanted(self.sampler, model, self.adapter, settings.pixels, settings.engine, max_images)
        return closing(engines(wanted))


def _adapter(start: Start, whose: Role | AdapterChoice) -> Path | None:
    """The folder of an adapter; None for the base model, which any policy is at its start."""
    folder = start.policy.folder
    if folder is None or whose == "base":
        return None
    if whose == "teacher" and not (folder / whose).is_dir():
        raise UsageError(f"{folder} has no teacher; `update --teacher-decay` keeps one")
    return folder / whose


def with_samples(
    sampler: Sampler | None, decoding: Decoding, rows: Iterable[tuple[T, Request | None]]
) -> Iterator[tuple[T, Sample | Refused | None]]:
    """Pairs every row with the sample of its request, in order; rows without a request pass through, and without a
    sampler there are no others.

    Rows are drawn, and their images decoded, only as the sampler asks for more.
    """
    if sampler is None:
        yield from ((row, None) for row, _ in rows)
        return
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


def sample_columns(sample: Sample | Refused) -> Row:
    """The columns of a trajectory row that come from the sampler. Where the engine gave a log-probability that is no
    number, the row keeps its text but no tokens, so that it is never learned from."""
    if isinstance(sample, Refused):
        return {"reject_reason": sample.reason}
    columns: Row = {"completion": sample.text, "finish_reason": sample.finish_reason}
    if all(map(math.isfinite, sample.logprobs)):
        return {**columns, "token_ids": sample.token_ids, "logprobs": sample.logprobs}
    return {**columns, "reject_reason": NOT_FINITE}
