"""Processes that learn together as torchrun would start them, without the seconds in which each of them begins."""

import multiprocessing
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from stages.parameters import Call
from stages.parameters.update import UpdateParams
from stages.update import update


def learn_together(size: int, scored: Path, updates: Sequence[tuple[UpdateParams, Path]]) -> None:
    """Each of the updates, one after the other, in the same `size` processes, which are copies of this one."""
    ports = [_free_port() for _ in updates]
    copies = multiprocessing.get_context("fork")
    ranks = [copies.Process(target=_rank, args=(rank, size, scored, updates, ports)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    ended = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert ended == [0] * size


def _rank(
    rank: int, size: int, scored: Path, updates: Sequence[tuple[UpdateParams, Path]], ports: Sequence[int]
) -> None:
    for (params, out), port in zip(updates, ports, strict=True):
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port))
        update([scored], params, Call(out=out))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
