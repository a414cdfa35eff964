"""What goes between a crew and its workers: words one way, an answer the other. Both are JSON.

Words may begin with variables, as in a shell: `RANK=1 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… update scored.parquet …`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from stages import errors

Words = Sequence[str]
PATIENCE = 120  # seconds: NFS lets a machine that is lost hold its locks for 90
CLOSING = 30.0  # seconds that a worker has for putting aside what it has done
SLEEP = ("sleep",)  # the one command that is no stage's: leave the device's memory to others
JOINED = "JOINED=1"  # before the words of a rank: of a group whose ranks have met already


@dataclass(frozen=True)
class Answer:
    """What became of words: nothing to tell when all is well. `error` names a class of `stages.errors`, and `message`
    is its argument. `later`: the same words may do in a while. `died`: the worker, or the engine in it, ended over
    them, and another has taken its place. `said`: what the stage has said meanwhile, a line each."""

    error: str = ""
    message: str = ""
    later: bool = False
    died: bool = False
    said: list[str] = field(default_factory=list)

    def exception(self) -> errors.StageError:
        """The error that it tells of."""
        return getattr(errors, self.error)(self.message)
