"""One vLLM engine for many stages: opened once, its adapters swapped."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from stages.parameters.sampling import Decoding
from stages.policy import DEFAULT_LORA, adapter_rank
from stages.sampling.interface import Refused, Request, Sample, Sampler, Wanted
from stages.sampling.opening import open_sampler

if TYPE_CHECKING:
    from stages.sampling.vllm import VllmSampler


class WarmEngine:
    """Called as `open_sampler` is, and with the same rows to come: keeps the engine it has opened as long as the same
    model and device settings are asked for, no more images and no adapter of a higher rank. Samplers other than vLLM
    are opened each time."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug
        self._engine: VllmSampler | None = None
        self._asked: tuple[object, ...] = ()
        self._max_images = 1
        self._rank = 0  # of the adapters that the engine can have

    def __call__(self, wanted: Wanted) -> Sampler:
        """Raises as `open_sampler` does."""
        if wanted.name != "vllm":
            return open_sampler(wanted, self._debug)
        from stages.sampling.vllm import VllmSampler

        rank = adapter_rank(wanted.adapter) if wanted.adapter else 0
        if self._engine is None or not self._will_do(wanted, rank):
            self.close()  # first: a device seldom holds two
            self._max_images = max(wanted.max_images, self._max_images)
            self._engine = VllmSampler(replace(wanted, max_images=self._max_images), warm=True, debug=self._debug)
            self._asked = (wanted.model.ref, wanted.options)
            self._rank = rank or DEFAULT_LORA.rank
        self._engine.use(wanted.adapter, wanted.pixels)
        return _Lent(self._engine)

    def _will_do(self, wanted: Wanted, rank: int) -> bool:
        """Whether the engine that is there can have an adapter of `rank`, and what else is wanted."""
        asked = (wanted.model.ref, wanted.options)
        return asked == self._asked and wanted.max_images <= self._max_images and rank <= self._rank

    @property
    def awake(self) -> bool:
        """Whether there is an engine that holds its memory."""
        return self._engine is not None and not self._engine.asleep

    def has(self, wanted: Wanted) -> bool:
        """Whether it takes no more of the device's memory to call this."""
        rank = adapter_rank(wanted.adapter) if wanted.adapter else 0
        return wanted.name == "vllm" and self.awake and self._will_do(wanted, rank)

    def sleep(self) -> None:
        """Leaves the device's memory to the learner until the engine is next asked for."""
        if self._engine is not None:
            self._engine.sleep()

    def close(self) -> None:
        """Ends the engine; the next time it is asked for another is opened."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class _Lent:
    """The engine as a stage has it: closing it leaves it to the next."""

    def __init__(self, engine: "VllmSampler") -> None:
        self._engine = engine
        self.device = engine.device

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        return self._engine.sample(requests, decoding)

    def close(self) -> None:
        pass
