"""Ctrl-C and SIGTERM while the program starts. Imports next to nothing, so that it is there before all else."""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130


def end_at_once() -> None:
    """From now on an interruption ends the program, with a line and no traceback: nothing has been begun."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in what a script starts in the background
            signal.signal(number, _end)


def interrupt_the_command() -> None:
    """From now on it is a KeyboardInterrupt, for the command to end in good order."""
    for number in SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)
