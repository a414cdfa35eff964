"""What a sampler is asked, and what it gives."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from stages.models.finding import Model
from stages.parameters.sampling import Decoding, EngineOptions, Pixels, SamplerName

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Request:
    """One trajectory to sample: the user's turn (images, then text) and the trajectory's own seed, in [0, 2^63)."""

    images: tuple["Image", ...]
    prompt: str
    seed: int


@dataclass(frozen=True)
class Sample:
    """What was sampled. `token_ids` are exactly the sampled tokens, the end of turn included when it was sampled;
    `logprobs` (natural log, same length) are under the distribution sampled from: after masking, temperature and
    top-p; `text` is without special tokens; `finish_reason` is `stop` or `length`."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


@dataclass(frozen=True)
class Refused:
    """In place of the sample of a request that the engine cannot take; `reason` says why and what would help, and
    becomes the row's reject_reason."""

    reason: str


class Sampler(Protocol):
    """Samples completions, each from its own seed, whatever else is in the batch."""

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        """One sample a request, in the order of the requests, which are drawn as they are needed."""
        ...


# Where a stage gets its sampler from: `open_sampler`, or a `WarmEngine` that is asked the same.
Engines: TypeAlias = Callable[[SamplerName, Model, Path | None, Pixels, EngineOptions, int], Sampler]
