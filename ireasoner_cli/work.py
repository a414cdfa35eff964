"""What a stage's command comes to, before it is done: for its own command line, or for `run`."""

from collections.abc import Callable
from dataclasses import dataclass

from stages.result import Result


@dataclass(frozen=True)
class Work:
    """`stage` is the stage with all its settings; it still takes `progress` and, where it samples, `engines`. `show`
    prints what it returns."""

    stage: Callable[..., Result]
    show: Callable[[Result], None]
