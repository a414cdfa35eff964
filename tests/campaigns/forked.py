"""Workers that are forks of a process that has imported everything: starting Python and torch anew costs seconds. Each
has an engine in a process of its own, as vLLM's is on a GPU, which says no more than that it is there."""

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from ireasoner_cli.workers import processes, worker
from stages.errors import EngineError
from stages.parameters.sampling import Decoding
from stages.sampling import Refused, Request, Sample, Wanted, fake


class Forked(subprocess.Popen[bytes]):
    """A worker, in the place of a program."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        environment, (words, answers) = given[5], (given[9], given[12])
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.setpgid(0, 0)
                os.dup2(words, 0)
                os.dup2(answers, 1)
                sys.stdin = os.fdopen(0)
                os.environ.clear()
                os.environ.update(environment)
                worker.main(args[args.index(worker.__name__) + 1 :])
                status = 0
            except SystemExit as ended:
                status = int(ended.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        self._child_created = True
        self._close_pipe_fds(*given[9:15])  # type: ignore[attr-defined]


class Engine:
    """A process that answers until it is killed, or whoever started it."""

    of: "Engine | None" = None  # this process

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._here, there = socket.socketpair()
        if not os.fork():
            worker.die_with_parent()
            while got := there.recv(1):
                there.send(got)
            os._exit(0)
        there.close()

    def ask(self) -> None:
        try:
            self._here.send(b".")
            alive = self._here.recv(1)
        except OSError:
            alive = b""
        if not alive:
            raise EngineError("vLLM failed while sampling (its process has ended)")


class WithEngine(fake.FakeSampler):
    """Samples while its engine is there."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        if Engine.of is None or Engine.of.owner != os.getpid():
            Engine.of = Engine()

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        assert Engine.of is not None
        for sample in super().sample(requests, decoding):
            Engine.of.ask()
            yield sample


def install() -> None:
    """Has this process and its forks start workers, and engines for the fake sampler, so."""
    processes.subprocess.Popen = Forked  # type: ignore[misc, assignment]
    fake.FakeSampler = WithEngine  # type: ignore[misc]
