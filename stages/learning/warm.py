"""One model for many updates: loaded once, its adapters put back to where they began."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from stages.contract import PROPOSER, SOLVER, Role
from stages.learning.model import PolicyModel
from stages.models.device import free_cache
from stages.models.finding import Model
from stages.policy import Lora


class WarmModel:
    """Called as `PolicyModel` is, and with the same bits to come: keeps the model it has loaded as long as the same is
    asked for. One update has it at a time."""

    def __init__(self) -> None:
        self._model: PolicyModel | None = None
        self._asked: list[object] = []  # what it is as good as new for
        self._fresh: dict[Role, dict[str, Tensor]] = {}  # the adapters as they began
        self._host: list[tuple[Tensor, Tensor]] = []  # the frozen weights, and what they are while the model sleeps
        self._device: torch.device | None = None  # where it was, while it sleeps

    def __call__(self, model: Model, seed: int, checkpointing: bool, lora: Lora, *more: Any) -> PolicyModel:
        """Raises as `PolicyModel` does."""
        if self._model is None or (model, seed, checkpointing, lora, *more) not in self._asked:
            self.close()  # first: a device seldom holds two
            self._model = PolicyModel(model, seed, checkpointing, lora, *more)
            # A policy records the projections that there are, of those asked for at first.
            self._asked = [(model, seed, checkpointing, each, *more) for each in (lora, self._model.lora)]
            for role in (SOLVER, PROPOSER):
                own = self._model.parameters(role)
                self._fresh[role] = {name: tensor.detach().to("cpu", copy=True) for name, tensor in own.items()}
        self._wake()
        for role, tensors in self._fresh.items():
            self._model.set_adapter(role, tensors)
        return self._model

    @property
    def awake(self) -> bool:
        """Whether there is a model that has its weights where it computes."""
        return self._model is not None and self._device is None

    def sleep(self) -> None:
        """Leaves the GPU's memory to the engine until the model is next asked for; on a CPU there is nothing to leave.

        Frozen weights never change: they are copied to the machine's memory the first time, and dropped after.
        """
        if self._model is None or not self.awake or not _on_gpu(self._model):
            return
        weights = self._model.frozen()
        if any(isinstance(weight, DTensor) for weight in weights):
            self.close()  # of a base in shards FSDP holds the memory itself
            return
        self._device = self._model.device
        self._host = self._host or [(weight, _pinned(weight.data)) for weight in weights]
        for weight, kept in self._host:
            weight.data = kept
        free_cache()

    def _wake(self) -> None:
        if self._device is not None:
            for weight, kept in self._host:
                weight.data = kept.to(self._device, non_blocking=True)
            self._device = None

    def close(self) -> None:
        """Lets go of the model; the next time it is asked for it is loaded anew."""
        self._model, self._host, self._device = None, [], None
        free_cache()


def _on_gpu(model: PolicyModel) -> bool:
    return model.device.type != "cpu"


def _pinned(tensor: Tensor) -> Tensor:
    """A copy in pages that stay where they are, which a GPU reads by itself."""
    return torch.empty_like(tensor, device="cpu", pin_memory=torch.cuda.is_available()).copy_(tensor)
