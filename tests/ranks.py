"""Processes that learn together as torchrun would start them, without the seconds in which each of them begins."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence


def in_ranks(size: int, *works: Callable[[], object]) -> None:
    """Does each of the works, one after the other, in the same `size` processes, which are copies of this one."""
    ports = [_free_port() for _ in works]
    copies = multiprocessing.get_context("fork")
    ranks = [copies.Process(target=_rank, args=(rank, size, works, ports)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    ended = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert ended == [0] * size


def _rank(rank: int, size: int, works: Sequence[Callable[[], object]], ports: Sequence[int]) -> None:
    for work, port in zip(works, ports, strict=True):
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port))
        work()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
