"""One vLLM engine for many stages: opened once, its adapters swapped."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from stages.models.finding import Model
from stages.parameters.sampling import EngineOptions, Pixels, SamplerName
from stages.policy import DEFAULT_LORA, adapter_rank
from stages.sampling.interface import Sampler
from stages.sampling.opening import open_sampler

if TYPE_CHECKING:
    from stages.sampling.vllm import VllmSampler


class WarmEngine:
    """Called as `open_sampler` is, and with the same rows to come: keeps the engine it has opened as long as the same
    model, bounds on pixels and device settings are asked for, no more images and no adapter of a higher rank. Samplers
    other than vLLM are opened each time."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug
        self._engine: VllmSampler | None = None
        self._asked: tuple[object, ...] = ()
        self._max_images = 1
        self._rank = 0  # of the adapters that the engine can have

    def __call__(
        self,
        name: SamplerName,
        model: Model,
        adapter: Path | None,
        pixels: Pixels,
        options: EngineOptions,
        max_images: int = 1,
    ) -> Sampler:
        """Raises as `open_sampler` does."""
        if name != "vllm":
            return open_sampler(name, model, adapter, pixels, options, max_images, self._debug)
        from stages.sampling.vllm import VllmSampler

        asked = (model.ref, pixels, options)
        rank = adapter_rank(adapter) if adapter else 0
        if self._engine is None or asked != self._asked or max_images > self._max_images or rank > self._rank:
            self._engine = None  # first: a device seldom holds two
            gc.collect()
            self._max_images = max(max_images, self._max_images)
            self._engine = VllmSampler(model, adapter, pixels, options, self._max_images, warm=True, debug=self._debug)
            self._asked = asked
            self._rank = rank or DEFAULT_LORA.rank
        self._engine.use(adapter)
        return self._engine

    def sleep(self) -> None:
        """Leaves the device's memory to the learner until the engine is next asked for."""
        if self._engine is not None:
            self._engine.sleep()
