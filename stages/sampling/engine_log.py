"""What vLLM's processes print: kept out of sight, and searched for the reason when one of them fails.

On a GPU the engine is a process of its own. When it cannot start, it prints a traceback, and the error here only points
to it.
"""

import fcntl
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

# The last line of a traceback, with or without what a logger puts before it.
FAILURE = re.compile(r"(?:^|\s)(?:\w+\.)*(\w*(?:Error|Exception))(?:: (\S.*?))?\s*$", re.MULTILINE)
# What vLLM says of an engine that has ended: that the reason is printed above, or no more than that.
ELSEWHERE = re.compile(r"root cause|stack trace|^cancelled$", re.IGNORECASE)
KEPT = 2**18  # bytes of the log's end that are enough to find the reason in: many tracebacks long


class EngineLog:
    """The output of one engine's processes."""

    def __init__(self, shown: bool) -> None:
        """`shown`: on stderr, rather than kept."""
        self._kept = None if shown else tempfile.TemporaryFile()  # noqa: SIM115
        if self._kept:  # each print goes to the end, wherever `trim` has brought that
            fcntl.fcntl(self._kept, fcntl.F_SETFL, fcntl.fcntl(self._kept, fcntl.F_GETFL) | os.O_APPEND)
        # Apart from the file descriptors, which the processes inherit; what logging holds on to must stay open.
        self._terminal = os.fdopen(os.dup(2), "w", buffering=1)

    @contextmanager
    def of_children(self) -> Iterator[None]:
        """Processes started within print into the log, never to stdout; this one prints to stderr."""
        sys.stdout.flush()
        sys.stderr.flush()
        before = {number: os.dup(number) for number in (1, 2)}
        target = self._kept.fileno() if self._kept else 2
        try:
            for number in before:
                os.dup2(target, number)
            with redirect_stdout(self._terminal), redirect_stderr(self._terminal):
                yield
        finally:
            for number, own in before.items():
                os.dup2(own, number)
                os.close(own)

    def trim(self) -> None:
        """Forgets all but the last KEPT bytes, once there are twice as many: an engine that complains of every request
        would fill the disk in the end. To be called again and again while the processes run."""
        if self._kept is None or (size := os.fstat(log := self._kept.fileno()).st_size) <= 2 * KEPT:
            return
        end = os.pread(log, KEPT, size - KEPT)
        os.ftruncate(log, 0)
        os.write(log, end)

    def reason(self, error: Exception) -> str:
        """Why `error` happened, in one line: what it says itself, or what the log says where it points there."""
        own = message(error)
        if not ELSEWHERE.search(own):
            return own
        if self._kept is None:
            return "what it printed is above"
        log = self._kept.fileno()
        printed = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")
        found = [said or name for name, said in FAILURE.findall(printed) if not ELSEWHERE.search(said)]
        return found[-1] if found else "its process ended without saying why, as one does that the system kills"


def message(error: Exception) -> str:
    """What `error` says, in one line; of pydantic's several, below their heading, the first problem."""
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ").splitlines()[0]
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
