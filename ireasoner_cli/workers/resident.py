"""What stays in a process from stage to stage: an engine to sample with, and a model to learn with."""

from typing import TYPE_CHECKING, Any

from stages.models.estimate import WHOLE, Held
from stages.models.finding import Model
from stages.policy import Lora
from stages.sampling import Sampler, Wanted
from stages.sampling.warm import WarmEngine

if TYPE_CHECKING:
    from stages.learning.model import PolicyModel
    from stages.learning.warm import WarmModel


class Residents:
    """Both are on the GPU where it holds both; else they take turns, and one leaves its memory to the other. On a CPU
    nobody has to."""

    def __init__(self, debug: bool = False) -> None:
        self._engine = WarmEngine(debug)
        self._model: WarmModel | None = None

    def engines(self, wanted: Wanted) -> Sampler:
        """What `stages.sampling.open_sampler` gives."""
        if self._model is not None and not self._engine.has(wanted):
            self._model.sleep()
        return self._engine(wanted)

    def models(
        self, model: Model, seed: int, checkpointing: bool, lora: Lora, held: Held = WHOLE, *ranks: Any
    ) -> "PolicyModel":
        """What `PolicyModel` gives."""
        from stages.learning.warm import WarmModel
        from stages.models.device import free_memory
        from stages.models.sharing import has_room

        self._model = self._model or WarmModel()
        free = free_memory() if self._engine.awake and not self._model.awake else None
        if free is not None and not has_room(model, free, lora, checkpointing, held):
            self._engine.sleep()
        return self._model(model, seed, checkpointing, lora, held, *ranks)

    def sleep(self) -> None:
        """Leaves the device's memory to others until there is something to do again."""
        self._engine.sleep()
        if self._model is not None:
            self._model.sleep()

    def close(self) -> None:
        """Ends the engine, and lets go of the model."""
        self._engine.close()
        self._model = None
