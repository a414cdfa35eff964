"""The typer app, and the one place where exceptions become messages and exit codes."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from ireasoner_cli import config, console
from ireasoner_cli.commands import (
    STAGES,
    compare,
    demo,
    doctor,
    export,
    init,
    inspect,
    recipes,
    run,
    verify,
)
from ireasoner_cli.commands import report as report_page
from ireasoner_cli.config import Command, Group
from ireasoner_cli.starting import INTERRUPTED, end_at_once, interrupt_the_command
from ireasoner_cli.work import Work
from stages.interrupts import Interruption

ENGINE_FAILURE = 4
GO_ON = "; what is done is kept: run the same command again to go on from there"


def guarded(command: Callable[..., Work | None], goes_on: bool = True) -> Callable[..., None]:
    """`command`, the work of a stage that it may come to carried out, and its failures turned into one message and an
    exit code: 2 wrong usage; 3 bad input data; 4 model, engine or device failure; 130 interrupted. `--debug` shows the
    traceback first. A closed stdout is typer's to handle: silence, and 1. `goes_on`: whether it takes up what it was
    interrupted in."""

    @wraps(command)
    def guard(**given: Any) -> None:
        interrupt_the_command()
        try:
            work = command(**given)
            if work is not None:
                work.show(work.carry_out(console.TerminalProgress()))
        except KeyboardInterrupt:
            console.error(f"interrupted{GO_ON if goes_on else ''}")
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError) and console.nobody_reads():
                raise
            if given["debug"]:
                traceback.print_exc()
            raise typer.Exit(report(error)) from None

    return guard


def report(error: Exception) -> int:
    """Prints one message for a failure and returns its exit code."""
    from stages.errors import OtherModel, StageError

    if isinstance(error, StageError):
        named_by = config.origin("model") if isinstance(error, OtherModel) else None
        console.error(f"{error}; {named_by} names it, and --model would go before that" if named_by else str(error))
        return error.exit_code
    console.error(f"{type(error).__name__}: {error}; --debug shows where")
    return ENGINE_FAILURE


app = typer.Typer(
    name="ireasoner",
    cls=Group,
    help="A vision-language model teaches itself to reason from unlabelled images: self-play as a chain of Parquet "
    "files. propose → rollout → score → update, round and round; eval at any time.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "IREASONER", "help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., Work | None]] = {
    **STAGES,
    "run": run.command,
    "recipes": recipes.command,
    "inspect": inspect.command,
    "report": report_page.command,
    "export": export.command,
    "verify": verify.command,
    "compare": compare.command,
    "init": init.command,
    "demo": demo.command,
    "doctor": doctor.command,
}
_TAKES_UP = {*STAGES, "run", "demo"}
for name, command in _COMMANDS.items():
    app.command(name, cls=Command)(guarded(command, goes_on=name in _TAKES_UP))


def _version(value: bool) -> None:
    if value:
        from stages import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command that was typed."""
    end_at_once()
    sys.unraisablehook = _not_lost
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is, where it is not of UTF-8
    try:
        try:
            app(prog_name="ireasoner")
        finally:
            if sys.stdout:  # which a shell can close
                sys.stdout.flush()
    except BrokenPipeError:  # whoever closed it knows
        os._exit(1)
    except OSError as error:  # of help, which is no command's, or of what was said last
        console.error(f"stdout: cannot be written ({error.strerror})")
        os._exit(ENGINE_FAILURE)  # else Python tries once more, and tells of it


def _not_lost(ignored: "sys.UnraisableHookArgs") -> None:
    """An interruption that comes while a library's object is being deleted is ignored by Python: once more, then."""
    if isinstance(ignored.exc_value, KeyboardInterrupt | Interruption):
        # Not SIGINT, which is ignored in what a script starts in the background.
        threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(ignored)
