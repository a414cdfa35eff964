"""What a stage's command comes to, before it is done: for its own command line, for `run`, or for a worker."""

from collections.abc import Callable
from dataclasses import dataclass

from stages.progress import Progress
from stages.result import Result


@dataclass(frozen=True)
class Work:
    """`stage` is the stage with all its settings; it still takes `progress` and, where it samples, `engines`. `show`
    prints what it returns. `typed`: what takes its place on a command line of its own, by several workers."""

    stage: Callable[..., Result]
    show: Callable[[Result], None]
    typed: Callable[..., Result] | None = None

    def carry_out(self, progress: Progress) -> Result:
        """As it was typed."""
        return (self.typed or self.stage)(progress=progress)
