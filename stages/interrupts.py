"""Ctrl-C and SIGTERM at a moment of our choosing."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back(notice: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within, the first interruption only calls `notice`, and the function this yields says that there was one; the
    next does what it did before. For work that must not stop halfway, such as an optimizer step.

    Signals reach the main thread alone: in any other this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = _handlers()
    asked = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        _restore(before)
        notice()

    for number in before:
        signal.signal(number, hold)
    try:
        yield lambda: asked
    finally:
        _restore(before)


def interrupt() -> None:
    """Does what Ctrl-C does in the main thread, without the signal, which may be blocked, as in Ray's workers."""
    if callable(handler := signal.getsignal(signal.SIGINT)):
        handler(signal.SIGINT, None)


class Interruption(BaseException):
    """A KeyboardInterrupt by a name that no library knows."""


@contextmanager
def not_swallowed() -> Iterator[None]:
    """Within, libraries that handle KeyboardInterrupt do not see one; it is raised where the block ends.

    vLLM handles it while its engine starts, and then waits for what no longer comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handlers()
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True  # the exception itself may come to be another, or be ignored, on its way
        raise Interruption

    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
        _restore(before)
    except BaseException:
        _restore(before)
        if not asked:
            raise
    if asked:
        raise KeyboardInterrupt


def _handlers() -> dict[signal.Signals, Any]:
    """What an interruption calls, where it is not ignored and does not simply end the process."""
    return {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
