"""Words to workers: each to the next that is free, and to another where one is lost."""

import shlex
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ireasoner_cli.workers.answer import SLEEP, Answer, Words
from stages.errors import EngineError

DEATHS = 3  # over the same words: then it is not the worker's fault
PATIENCE = 120  # seconds: NFS lets a machine that is lost hold its locks for 90


class Carrier(Protocol):
    """Where workers are. A worker is a number from 0 to `size`; whoever dies is replaced in its place."""

    @property
    def size(self) -> int: ...

    def begin(self, worker: int, words: Words) -> None:
        """Gives words to a worker that has none."""
        ...

    def next(self) -> tuple[int, Answer]:
        """Waits for a worker that has words, and says which and what became of them."""
        ...

    def close(self) -> None:
        """Ends all workers, whatever they are at."""
        ...


class Crew:
    """The workers of a carrier. After an error they may be at work still: to be closed."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._awake: set[int] = set()

    @property
    def size(self) -> int:
        return self._carrier.size

    def run(self, commands: Sequence[Words], advance: Callable[[int], None] = lambda done: None) -> None:
        """Has each of `commands` done by the next worker that is free; `advance` is told of each that is.

        Raises what a stage raises; EngineError where three workers have ended over the same words.
        """
        waiting, idle = deque(commands), deque(range(self.size))
        busy: dict[int, Words] = {}
        deaths, refused = Counter[Words](), Counter[Words]()
        while waiting or busy:
            while waiting and idle:
                worker = idle.popleft()
                busy[worker] = tuple(waiting.popleft())
                self._awake.add(worker)
                self._carrier.begin(worker, busy[worker])
            worker, answer = self._carrier.next()
            words = busy.pop(worker)
            idle.append(worker)
            if answer.died:
                deaths[words] += 1
                if deaths[words] == DEATHS:
                    raise EngineError(f"{answer.message}; {DEATHS} times, at `ireasoner {shlex.join(words)}`")
                waiting.appendleft(words)
            elif answer.later and (busy or refused[words] < PATIENCE):
                refused[words] += not busy  # who is at work may take them next
                time.sleep(1)
                waiting.append(words)
            elif answer.error:
                raise answer.exception()
            else:
                advance(1)

    def sleep(self) -> None:
        """Has all engines leave their device's memory to others until they have words again."""
        for worker in self._awake:
            self._carrier.begin(worker, SLEEP)
        for _ in range(len(self._awake)):
            self._carrier.next()  # who dies of it leaves the memory, too
        self._awake.clear()

    def close(self) -> None:
        self._carrier.close()
