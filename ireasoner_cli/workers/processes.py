"""Workers on this machine: a process each, with GPUs of its own."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

from ireasoner_cli.workers.answer import CLOSING, Answer, Words
from ireasoner_cli.workers.ports import free_port
from stages.errors import EngineError


class Processes:
    """A worker for each of `devices`, which CUDA_VISIBLE_DEVICES is set to there; None leaves it as it is. A process is
    started when it first has words, and one that has ended in the place of which it stood."""

    def __init__(self, devices: Sequence[str | None], debug: bool = False) -> None:
        self._devices = devices
        self._program = ["-P", "-m", "ireasoner_cli.workers.worker", *(["--debug"] if debug else [])]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._busy = selectors.DefaultSelector()

    @property
    def size(self) -> int:
        return len(self._devices)

    def begin(self, worker: int, words: Words) -> None:
        process = self._processes.get(worker)
        if process is None or process.poll() is not None:
            process = self._processes[worker] = self._start(self._devices[worker])
        with contextlib.suppress(BrokenPipeError):  # it has ended just now, as `next` will find
            _pipe(process.stdin).write(json.dumps(list(words)).encode() + b"\n")
        self._busy.register(_pipe(process.stdout), selectors.EVENT_READ, worker)

    def next(self) -> tuple[int, Answer]:
        key, _ = self._busy.select()[0]
        self._busy.unregister(key.fileobj)
        process = self._processes[key.data]
        line = _pipe(process.stdout).readline()
        if not line.endswith(b"\n"):
            return key.data, Answer(EngineError.__name__, _ended(process.wait()), died=True)
        answer = Answer(**json.loads(line))
        if answer.died:  # with all that its engine holds
            self.end(key.data)
        return key.data, answer

    def address(self, worker: int) -> tuple[str, int]:
        return "127.0.0.1", free_port()

    def end(self, worker: int) -> None:
        if process := self._processes.pop(worker, None):
            if process.stdout in self._busy.get_map():
                self._busy.unregister(_pipe(process.stdout))
            process.kill()
            process.wait()

    def _start(self, device: str | None) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": device} if device is not None else {})}
        return subprocess.Popen(
            [sys.executable, *self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            process_group=0,  # Ctrl-C is for this process, which says to each, and once, that it is to end
        )

    def close(self) -> None:
        """Interrupts what is still at work, and waits for it, but not for ever."""
        try:
            for process in self._processes.values():
                process.terminate()
            deadline = time.monotonic() + CLOSING
            for process in self._processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()


def _pipe(end: IO[bytes] | None) -> Any:
    assert end is not None
    return end


def _ended(status: int) -> str:
    """Why a process that gave no answer has ended, by its exit status."""
    if status == -signal.SIGKILL:
        return "its process was killed, as the system does where memory runs out"
    return f"its process ended ({signal.Signals(-status).name if status < 0 else f'exit status {status}'})"
