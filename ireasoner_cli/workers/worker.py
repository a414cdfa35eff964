"""A worker: runs stages in its process, on an engine and a learner's model that stay warm.

    echo '["rollout", "--shard", "1/2", "--out", "rollouts", "--", "questions.parquet"]' |
        python -m ireasoner_cli.workers.worker

Words come in on stdin, a JSON list a line, and an answer a line goes out on stdout.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import takewhile
from typing import Any

import typer

from ireasoner_cli.app import app
from ireasoner_cli.running.prepare import read_words
from ireasoner_cli.workers.answer import JOINED, SLEEP, Answer, Words
from ireasoner_cli.workers.resident import Residents
from stages.errors import BeingWritten, EngineError, StageError, UsageError, first_line
from stages.progress import SILENT, Progress
from stages.sampling import Sampler, Wanted
from stages.sampling.dying_with_parent import die_with_parent

DEBUG = "--debug"
LEARNS = "update"  # the stage that learns; the others sample
_JOINED = JOINED.partition("=")[0]


class Worker:
    """`run`s words."""

    def __init__(self, debug: bool = False) -> None:
        group: Any = typer.main.get_command(app)
        self._program = typer.Context(group, info_name="ireasoner", auto_envvar_prefix="IREASONER")
        self._residents = Residents(debug)
        self._debug = debug
        self._sampling = False
        self._group: Any = None  # the ranks that this process is one of, once it is
        self._has_joined = False  # whether it has been one of a group

    def run(self, words: Words, progress: Progress = SILENT) -> Answer:
        """Does what the words say; KeyboardInterrupt passes."""
        self._sampling = False
        variables = dict(word.split("=", 1) for word in takewhile(lambda word: "=" in word, words))
        words, overheard = words[len(variables) :], Overheard(progress)
        try:
            if tuple(words) == SLEEP:
                self._sampling = True  # an engine that cannot sleep is as good as dead
                self._residents.sleep()
            elif words[0] == LEARNS:
                with self._as_rank(variables):
                    read_words(words, self._program).stage(progress=overheard, models=self._residents.models)
            else:
                read_words(words, self._program).stage(progress=overheard, engines=self._open)
            return Answer(said=overheard.lines)
        except StageError as error:
            later = isinstance(error, BeingWritten)  # by a worker that is lost to us, and not to the system yet
            # Whoever asks for what cannot be had is told so; an engine that had begun to sample has failed.
            died = isinstance(error, EngineError) and self._sampling
            return Answer(type(error).__name__, str(error.args[0]), later, died)
        except typer.BadParameter as error:
            return Answer(UsageError.__name__, error.format_message())
        except Exception as error:
            if self._debug:
                traceback.print_exc()
            # Of a rank it may be that another is gone: who was to add up with it cannot go on.
            told = f"{type(error).__name__}: {first_line(error)}; --debug shows where"
            return Answer(EngineError.__name__, told, died=bool(variables))

    def close(self) -> None:
        """Ends the engine."""
        self._residents.close()

    def _open(self, wanted: Wanted) -> Sampler:
        sampler = self._residents.engines(wanted)
        self._sampling = True
        return sampler

    @contextmanager
    def _as_rank(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Within, this process is the rank that `variables` say, if they do. It stays among the others after, since
        joining takes a while; but for a CPU, where an engine in this process is to have torch's one group again.

        Raises RuntimeError where the others have met and this process, which is in the place of one that was lost, has
        not: they would not wait for it, and it would wait for them."""
        if not variables:
            yield
            return
        if _JOINED in variables and not self._has_joined:
            raise RuntimeError("a rank was lost since the others met")
        self._has_joined = True
        from stages.learning.ranks import Ranks
        from stages.models.device import gpu_is_used

        os.environ.update(variables)
        try:
            if self._group is None:
                self._group = Ranks().__enter__()
            yield
            if not gpu_is_used():
                self._group.__exit__(None, None, None)
                self._group = None
        finally:
            for name in variables:
                del os.environ[name]


class Overheard:
    """A Progress that keeps what is said, for who does not hear it."""

    def __init__(self, progress: Progress) -> None:
        self.lines: list[str] = []
        self.track, self.busy = progress.track, progress.busy

    def say(self, message: str) -> None:
        self.lines.append(message)


def main(arguments: Sequence[str]) -> None:
    """The process of one worker, for as long as there are words."""
    die_with_parent()  # and where it is gone already, so is the other end of stdin
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        worker = Worker(DEBUG in arguments)
        try:
            for line in sys.stdin:
                print(json.dumps(asdict(worker.run(json.loads(line)))), file=answers, flush=True)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGTERM)
        finally:
            worker.close()


if __name__ == "__main__":
    main(sys.argv[1:])
