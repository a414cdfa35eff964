"""What goes between a crew and its workers: words one way, an answer the other. Both are JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages import errors

Words = Sequence[str]
SLEEP = ("sleep",)  # the one command that is no stage's: leave the device's memory to others


@dataclass(frozen=True)
class Answer:
    """What became of words: nothing to tell when all is well. `error` names a class of `stages.errors`, and `message`
    is its argument. `later`: the same words may do in a while. `died`: the worker, or the engine in it, ended over
    them, and another has taken its place."""

    error: str = ""
    message: str = ""
    later: bool = False
    died: bool = False

    def exception(self) -> errors.StageError:
        """The error that it tells of."""
        return getattr(errors, self.error)(self.message)
