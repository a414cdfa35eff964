"""Several processes, one learner: torchrun, or who sets its variables, has a process a GPU; they share a step's
groups."""

import os
from typing import Any

import torch
from torch import Tensor

from stages.errors import UsageError
from stages.models.device import gpu_is_used


class Ranks:
    """This process's place among the `size` that learn together; by itself it is rank 0 of 1."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._device = torch.device("cpu")
        self._joined = False
        self._group: Any = None  # torch's, once it is among the others

    def __eq__(self, other: object) -> bool:
        """Whether both are the same place among the same processes, who have not left each other meanwhile."""
        if not isinstance(other, Ranks):
            return NotImplemented
        return (self.size, self.rank, self._group) == (other.size, other.rank, other._group)

    def __enter__(self) -> "Ranks":
        """Joins the processes that were started with this one, if any were: nccl between GPUs, gloo between CPUs. Where
        this process is among them already it stays there after, too.

        Raises UsageError where there are more of them than GPUs or one was not told its place, EngineError as
        `gpu_is_used` does.
        """
        if self.size > 1:
            if gpu_is_used():
                self._device = torch.device("cuda", _own_gpu())
                torch.cuda.set_device(self._device)
            if not self._is_member():
                self._join()
            self._group = torch.distributed.group.WORLD
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        # A failure is said at once, and torchrun then ends the others. Leaving in order is something that all do
        # together: the others, who wait for this process in a sum, would let it wait until nccl's timeout.
        if self.size > 1 and kind is None:
            torch.distributed.barrier()  # none leaves while another still talks to it
            if self._joined:
                torch.distributed.destroy_process_group()

    def _join(self) -> None:
        try:
            self._open()
        except ValueError as error:  # torch looks for what torchrun tells each process
            raise UsageError(f"WORLD_SIZE is {self.size}: {error}; start with torchrun, or unset it") from error
        self._joined = True

    def _open(self) -> None:
        if self._device.type == "cuda":
            # Sums that the switch between GPUs adds up come in another order each time: with the others an interrupted
            # update ends in the same bytes.
            os.environ.setdefault("NCCL_ALGO", "^NVLS")
            torch.distributed.init_process_group("nccl", device_id=self._device)
        else:
            torch.distributed.init_process_group("gloo")

    def _is_member(self) -> bool:
        """Whether this process has joined the others before. On a CPU vLLM's engine is in this process, too, and has
        opened a group of one, in which it never says a word: it makes room."""
        if not torch.distributed.is_initialized():
            return False
        if torch.distributed.get_world_size() == self.size:
            return True
        torch.distributed.destroy_process_group()
        return False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def sum(self, tensors: list[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes, the same bits in all of them."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, here: bool) -> bool:
        """Whether it holds in any of the processes. Waits for them."""
        flag = torch.tensor([float(here)], device=self._device)
        self.sum([flag])
        return bool(flag)

    def from_first(self, value: Any) -> Any:
        """What the first process has for `value`, a plain Python object. Waits for it."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]


def _own_gpu() -> int:
    """The number of this process's GPU among those it sees."""
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise UsageError(f"more processes than GPUs on this machine; use --nproc-per-node {gpus}")
    return number
