"""Words to workers: each to the next that is free, and to another where one is lost; or to several at once, who learn
together."""

import shlex
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from ireasoner_cli.workers.answer import JOINED, PATIENCE, SLEEP, Answer, Words
from stages.errors import EngineError

DEATHS = 3  # over the same words: then it is not the worker's fault


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

    def address(self, worker: int) -> tuple[str, int]:
        """Of the machine that the worker is on, as the others reach it, and a port that is free there."""
        ...

    def end(self, worker: int) -> None:
        """Ends the worker's process, whatever it is at: of words that it has nothing is heard any more."""
        ...

    def close(self) -> None:
        """Ends all workers, whatever they are at."""
        ...


class Crew:
    """The workers of a carrier. After an error they may be at work still: to be closed."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._awake: set[int] = set()
        self._ranks = 0  # how many of the workers, from the first, are one group

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
                    raise _given_up(answer, words)
                waiting.appendleft(words)
            elif answer.later and (busy or refused[words] < PATIENCE):
                refused[words] += not busy  # who is at work may take them next
                time.sleep(1)
                waiting.append(words)
            elif answer.error:
                raise answer.exception()
            else:
                advance(1)

    def start(self, words: Words, count: int) -> Callable[[], Sequence[str]]:
        """Has the first `count` workers do the same words at once, as the ranks of one group; one alone is by itself.
        What is returned waits for their end, raises as `run` does, and returns what the first has said. Where one is
        lost all of them are ended, and begin again.
        """
        self._begin(words, count)
        return partial(self._finish, words, count)

    def _finish(self, words: Words, count: int) -> Sequence[str]:
        deaths = refused = 0
        while (answer := self._answer(count)).error:
            if answer.died:
                deaths += 1
                if deaths == DEATHS:
                    raise _given_up(answer, words)
            elif answer.later and refused < PATIENCE:
                refused += 1
                time.sleep(1)
            else:
                raise answer.exception()
            self._begin(words, count)
        return answer.said

    def _begin(self, words: Words, count: int) -> None:
        """Gives the words to the first `count` workers."""
        if count > 1 and self._ranks not in (0, count):
            self._end(self._ranks)  # who is of a group that is no more cannot be of another
        for rank, variables in enumerate(self._group(count)):
            self._awake.add(rank)
            self._carrier.begin(rank, [*variables, *words])

    def _answer(self, count: int) -> Answer:
        """What the first of so many ranks answers; or the error of any, and then all have ended: the others would wait
        for it for ever."""
        first = Answer()
        for _ in range(count):
            worker, answer = self._carrier.next()
            first = first if worker else answer
            if answer.error:
                self._end(count if count > 1 else 0)
                return answer
        return first

    def _group(self, count: int) -> list[list[str]]:
        """The variables of each rank."""
        if count == 1:
            return [[]]
        joined = [JOINED] if self._ranks else []
        self._ranks = count
        host, port = self._carrier.address(0)
        shared = [f"WORLD_SIZE={count}", f"MASTER_ADDR={host}", f"MASTER_PORT={port}", *joined]
        return [[f"RANK={rank}", *shared] for rank in range(count)]

    def _end(self, ranks: int) -> None:
        for worker in range(ranks):
            self._carrier.end(worker)
            self._awake.discard(worker)
        if ranks >= self._ranks:
            self._ranks = 0

    def sleep(self) -> None:
        """Has all engines leave their device's memory to others until they have words again."""
        for worker in self._awake:
            self._carrier.begin(worker, SLEEP)
        for _ in range(len(self._awake)):
            self._carrier.next()  # who dies of it leaves the memory, too
        self._awake.clear()


def _given_up(answer: Answer, words: Words) -> EngineError:
    return EngineError(f"{answer.message}; {DEATHS} times, at `ireasoner {shlex.join(words)}`")
