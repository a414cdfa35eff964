"""A worker as an actor of Ray: what runs on the machines of the cluster."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray

from ireasoner_cli.workers.answer import Answer, Words
from ireasoner_cli.workers.ports import free_port
from ireasoner_cli.workers.worker import Worker
from stages import __version__, interrupts
from stages.progress import SILENT


class ActingWorker:
    """A worker, for a driver in `folder`, which paths are relative to."""

    def __init__(self, folder: str, debug: bool) -> None:
        os.chdir(folder)
        self._worker = Worker(debug)

    def version(self) -> str:
        return __version__

    def address(self) -> tuple[str, int]:
        return ray.util.get_node_ip_address(), free_port()

    def answer(self, words: Words) -> dict[str, Any]:
        """As `Worker.run` does."""
        try:
            return asdict(self._worker.run(words, _Watched()))
        except KeyboardInterrupt:
            return asdict(Answer())  # nobody waits for it


class _Watched:
    """A Progress that shows nothing, and asks whether the driver has been interrupted: a task of an actor is only told
    so where it asks. Then it is as if by Ctrl-C, which an update holds back till its step is kept."""

    busy, say = staticmethod(SILENT.busy), staticmethod(SILENT.say)

    @contextmanager
    def track(self, task: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            if ray.get_runtime_context().is_canceled():
                interrupts.interrupt()

        yield advance
