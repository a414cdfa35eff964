"""How a stage reports progress without knowing who is watching."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """What the command line gives a stage to talk through; tests and scripts use `SILENT`."""

    def track(self, task: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """A task of `total` units; the value it yields is called with the number of units just done."""
        ...

    def busy(self, task: str) -> AbstractContextManager[None]:
        """A task whose length is not known, such as loading a model."""
        ...

    def say(self, message: str) -> None:
        """One line worth reading: something reused, skipped or refused."""
        ...


class _Silent:
    def track(self, task: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda done: None)

    def busy(self, task: str) -> AbstractContextManager[None]:
        return nullcontext()

    def say(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()
