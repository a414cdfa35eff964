"""What a sampler is asked, and what it gives."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from stages.models.finding import Model
from stages.parameters.sampling import Decoding, EngineOptions, Pixels, SamplerName

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Wanted:
    """The sampler that a stage wants: which engine, with `model` and, unless None, the PEFT adapter in `adapter` as it
    lies there; `max_images` is how many a prompt has at most."""

    name: SamplerName
    model: Model
    adapter: Path | None = None
    pixels: Pixels = field(default_factory=Pixels)
    options: EngineOptions = field(default_factory=EngineOptions)
    max_images: int = 1


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

    @property
    def device(self) -> dict[str, Any]:
        """What it samples on, as files record it; empty where no model is computed."""
        ...

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        """One sample a request, in the order of the requests, which are drawn as they are needed."""
        ...

    def close(self) -> None:
        """Gives back what it holds, processes and a device's memory among it; it is not used again."""
        ...


# Where a stage gets its sampler from, and closes it after: `open_sampler`, or a `WarmEngine`.
Engines: TypeAlias = Callable[[Wanted], Sampler]
