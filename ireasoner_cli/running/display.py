"""What a person sees of a run: one live display on a terminal; elsewhere a line an iteration, and one now and then."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ireasoner_cli import console
from ireasoner_cli.console import duration
from ireasoner_cli.inspection.distribution import BLOCKS
from ireasoner_cli.running.figures import Figures

CURVES = ("reward", "density", "entropy", "kl", "accuracy")
WIDTH = 40  # iterations that a curve shows


class Display:
    """`running.loop.View` on stderr, for a run of so many `iterations`."""

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._number = 0
        self._task, self._unit, self._done, self._total = "", "", 0, 0
        self._started = time.monotonic()
        self._seconds: list[float] = []
        self._curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self._live = Live(console=console.stderr, get_renderable=self._render, refresh_per_second=4)
        self._terminal = console.stderr.is_terminal

    def __enter__(self) -> Self:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._terminal:
            self._live.stop()

    @contextmanager
    def track(self, task: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self._task, self._unit, self._done, self._total = task, unit, 0, total
        if not self._terminal:
            where = f"{self._where()}, {task}" if self._number else task
            yield console.ProgressLines(where, total, unit).advance
            return

        def advance(done: int) -> None:
            self._done += done

        yield advance

    @contextmanager
    def busy(self, task: str) -> Iterator[None]:
        self._task, self._total = task, 0
        yield

    def say(self, message: str) -> None:
        console.stderr.print(console.safe_text(message))

    @contextmanager
    def iteration(self, number: int) -> Iterator[None]:
        self._number, self._started = number, time.monotonic()
        yield

    def finished(self, number: int, figures: Figures, seconds: float | None) -> None:
        self._number = number
        for name, curve in self._curves.items():
            value = getattr(figures, name)
            if value is not None and math.isfinite(value):  # a step that was skipped has a KL that is no number
                curve.append(value)
        if seconds is not None:
            self._seconds.append(seconds)
            if not self._terminal:
                named = ((name, getattr(figures, name)) for name in CURVES)
                shown = ", ".join(f"{name} {value:.3g}" for name, value in named if value is not None)
                took = f"{duration(seconds)}{self._left(0)}"
                console.stderr.print(f"{self._where()}: {shown or 'nothing was scored'}; {took}")

    def _where(self) -> str:
        return f"it{self._number:04d} of {self._iterations}"

    def _left(self, spent: float) -> str:
        """How long the rest will take, as long as the mean iteration so far has taken."""
        if not self._seconds:
            return ""
        each = sum(self._seconds) / len(self._seconds)
        left = each * (self._iterations - self._number + (1 if spent else 0)) - spent
        return f", about {duration(left)} left" if left > 0 else ""

    def _render(self) -> RenderableType:
        if not self._number:
            return Text(self._task)
        spent = time.monotonic() - self._started
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._total, completed=self._done, width=30) if self._total else Text("")
        count = f"{self._done}/{self._total} {self._unit}" if self._total else ""
        head.add_row(Text(self._where(), "bold"), self._task, bar, count, f"{duration(spent)}{self._left(spent)}")
        curves = Table.grid(padding=(0, 2))
        for name, values in self._curves.items():
            if values:
                curves.add_row(Text(name, "dim"), f"{values[-1]:.3g}", Text(sparkline(values), "cyan"))
        return Group(head, curves)


def sparkline(values: Sequence[float]) -> str:
    """The last WIDTH values, a character each, from the lowest of them to the highest."""
    last = values[-WIDTH:]
    low, span = min(last), max(last) - min(last)
    levels = len(BLOCKS) - 2
    return "".join(BLOCKS[1 + round(levels * (value - low) / span) if span else levels // 2] for value in last)
