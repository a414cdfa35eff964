"""What a person sees: results on stdout, everything else on stderr, where progress is a bar on a terminal and
elsewhere a line now and then."""

import json
import math
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from stages.errors import EngineError, why
from stages.result import Result

SECONDS_BETWEEN_LINES = 30.0

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def safe_text(text: str) -> Text:
    """Text from a model, a file or a user, as rich may print it: no markup is read in it, and no control or escape
    character, override of the writing direction or invisible character is left."""
    return Text(plain(text))


def plain(text: str) -> str:
    """`safe_text` as a string."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


def counted(number: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def nobody_reads() -> bool:
    """Whether stdout is a pipe that was closed at its other end."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(events & select.POLLERR for _, events in poll.poll(0))


@contextmanager
def _stdout() -> Iterator[None]:
    """Raises EngineError where stdout does not take what is written to it, BrokenPipeError where it was closed."""
    try:
        yield
        if sys.stdout:  # which a shell can close
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EngineError(f"stdout: cannot be written ({why(error)})") from error


def error(message: str) -> None:
    stderr.print(Text.assemble(("error: ", "bold red"), plain(message)))


def stage_result(made: Result, as_json: bool) -> None:
    result(made.path, made.summary, made.reused, as_json)


def result(path: Path, summary: dict[str, Any], reused: bool, as_json: bool) -> None:
    """The command's result: its path on stdout (or everything, as JSON), its figures on stderr."""
    if as_json:
        print_json(as_json_object(path, summary, reused))
        return
    figures = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in summary.items())
    note = "up to date: made from the same inputs, parameters, model and policy" if reused else ""
    if note or figures:
        stderr.print(Text(plain("; ".join(filter(None, (note, figures)))), style="dim"))
    print_line(str(path))


def as_json_object(path: Path, summary: dict[str, Any], reused: bool = False) -> dict[str, Any]:
    """A command's result, as --json has it."""
    return {"path": str(path), "reused": reused, **summary}


def print_json(content: Any) -> None:
    """On stdout, numbers that JSON does not know as null."""
    with _stdout():
        print(json.dumps(_known_to_json(content), allow_nan=False))


def _known_to_json(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _known_to_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_known_to_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def print_line(text: str) -> None:
    """A line, or several, on stdout; of a text that may be anybody's."""
    with _stdout():
        print(plain(text))


def print_view(view: RenderableType, width: int | None = None) -> None:
    """Something to look at, on stdout; as wide as what it is shown on, unless `width` is given."""
    with _stdout():
        Console(highlight=False, width=width).print(view)


def print_table(table: Table) -> None:
    """A table on stdout: as wide as it needs where nobody watches, so that no figure is cut."""
    print_view(table, None if Console().is_terminal else 200)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class TerminalProgress:
    """`stages.progress.Progress` on stderr."""

    @contextmanager
    def track(self, task: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        if not stderr.is_terminal:
            yield ProgressLines(task, total, unit).advance
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TaskProgressColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=stderr, transient=True) as bar:
            running = bar.add_task(task, total=total)
            yield lambda done: bar.advance(running, done)

    def busy(self, task: str) -> AbstractContextManager[Any]:
        return stderr.status(task)

    def say(self, message: str) -> None:
        stderr.print(safe_text(message))


class ProgressLines:
    """How far a task of `total` units is, a line every SECONDS_BETWEEN_LINES: for logs."""

    def __init__(self, task: str, total: int, unit: str) -> None:
        self._task, self._total, self._unit = task, total, unit
        self._done = 0
        self._said_at = time.monotonic()
        self._measured: tuple[float, int] | None = None  # since when, and from how many, the pace is taken

    def advance(self, done: int) -> None:
        now = time.monotonic()
        self._done += done
        if self._measured is None:  # the first were done before, or waited for the engine: no measure of the others
            self._measured = now, self._done
        if now - self._said_at < SECONDS_BETWEEN_LINES or self._done >= self._total:
            return
        since, had = self._measured
        pace = (now - since) / (self._done - had) if self._done > had else None
        left = f", about {duration((self._total - self._done) * pace)} left" if pace else ""
        share = f"{100 * self._done / self._total:.0f} %"
        stderr.print(Text(f"{self._task}: {self._done:,} of {self._total:,} {self._unit}, {share}{left}"))
        self._said_at, self._measured = now, (now, self._done)


def duration(seconds: float) -> str:
    """In words: `8 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: RichTask) -> Text:
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "")
