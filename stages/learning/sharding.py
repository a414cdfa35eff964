"""The frozen base in shards over the ranks (FSDP2): each holds its part of every layer, and a layer is put together, by
all ranks at once, while one of them runs it.

Only matrices of the language model's layers are worth it. Adapters, vectors, embeddings, head and vision tower (1.3 of
a 72B's 137 GiB) are whole on each rank.

Layers are gathered in sweeps: upwards when prompts or completions run, downwards in their backward. Ranks have unequal
work, and one that gathered by itself would wait for ever; so before each sweep all say what they want, sweep upwards
where any of them wants that, else downwards, and those that wanted something else lend their shards only. A rank
without work of its own does so until all have finished.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.learning.ranks import Ranks

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, ...] = ("up", "down")


class Sweeps:
    """A language model's layers in shards, and this rank's part in the sweeps over them."""

    def __init__(self, text_model: Any, ranks: Ranks, device: torch.device) -> None:
        """Shards the layers, which lie on the CPU, onto the ranks' devices; what else there is stays where it is. Of
        one layer at a time the whole is on a device."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._ranks, self._device, self._layers = ranks, device, list(text_model.layers)
        mesh = init_device_mesh(device.type, (ranks.size,))
        for layer in self._layers:
            whole = {parameter for name, parameter in layer.named_parameters() if not _is_sharded(name, parameter)}
            fully_shard(layer, mesh=mesh, ignored_params=whole)
        # All of the rest is ignored: the root is there for the order of its layers.
        rest = {parameter for parameter in text_model.parameters() if not hasattr(parameter, "to_local")}
        fully_shard(text_model, mesh=mesh, ignored_params=rest)
        # The next of a sweep is gathered while one is run. By itself FSDP would go on at the lowest layer with the
        # highest, as the last forward pass had it; itself in that place is nothing more to be gathered.
        for layer, below in zip(self._layers, self._layers[:1] + self._layers[:-1], strict=True):
            layer.set_modules_to_backward_prefetch([below])
        text_model.register_forward_pre_hook(lambda *_: self._take("up"), prepend=True)
        text_model.register_forward_hook(self._before_backward)

    def finish(self) -> None:
        """Lends this rank's shards until the work of all ranks is done."""
        while direction := self._agreed(None):
            self._lend(direction)

    def _before_backward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        states = output.last_hidden_state
        if states.requires_grad:
            states.register_hook(lambda _: self._take("down"))

    def _take(self, own: Direction) -> None:
        """Returns when it is this rank's turn to sweep in a direction."""
        while (direction := self._agreed(own)) != own:
            assert direction is not None
            self._lend(direction)

    def _agreed(self, wanted: Direction | None) -> Direction | None:
        """In which direction the next sweep is; None where no rank wants one."""
        wishes = torch.tensor([float(wanted == direction) for direction in DIRECTIONS], device=self._device)
        self._ranks.sum([wishes])
        return next((direction for direction, wish in zip(DIRECTIONS, wishes.tolist(), strict=True) if wish), None)

    def _lend(self, direction: Direction) -> None:
        for layer in self._layers if direction == "up" else reversed(self._layers):
            with gathered(layer):
                pass


@contextmanager
def gathered(layer: Any) -> Iterator[None]:
    """Within, a layer's weights are whole; every rank must come here. Nothing to do where they are anyway."""
    if not hasattr(layer, "unshard"):
        yield
        return
    layer.unshard()
    try:
        yield
    finally:
        layer.reshard()


def _is_sharded(name: str, parameter: Tensor) -> bool:
    return parameter.dim() > 1 and "lora_" not in name
