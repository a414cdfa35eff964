"""The typer app, and the one place where exceptions become messages and exit codes."""

import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

from ireasoner_cli import console
from ireasoner_cli.commands import evaluate, propose, rollout, score, update

INTERRUPTED = 130
ENGINE_FAILURE = 4

app = typer.Typer(
    name="ireasoner",
    help="A vision-language model teaches itself to reason from unlabelled images: self-play as a chain of Parquet "
    "files. propose → rollout → score → update, round and round; eval at any time.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "IREASONER", "help_option_names": ["-h", "--help"]},
)
app.command("propose")(propose.command)
app.command("rollout")(rollout.command)
app.command("score")(score.command)
app.command("update")(update.command)
app.command("eval")(evaluate.command)


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
    """The console script. Exit codes: 0 done; 2 wrong usage; 3 bad input data; 4 model, engine or device
    failure; 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=True)
    except KeyboardInterrupt:
        console.error("interrupted; run the same command again to go on from what is done")
        code = INTERRUPTED
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        code = report(error)
    sys.exit(code)


def report(error: Exception) -> int:
    """Prints one message for a failure and returns its exit code."""
    from stages.errors import StageError

    if isinstance(error, StageError):
        console.error(str(error))
        return error.exit_code
    if isinstance(error, MemoryError):
        console.error("out of memory")
    else:
        console.error(f"{type(error).__name__}: {error}; --debug shows where")
    return ENGINE_FAILURE


def _interrupt(number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt
