"""A stage's command with the settings it would have on a command line of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from ireasoner_cli.commands import STAGES
from ireasoner_cli.config import Command
from ireasoner_cli.work import Work

_stages = typer.Typer()
for name, command in STAGES.items():
    _stages.command(name, cls=Command)(command)

Prepare = Callable[..., Work]


def preparing(context: typer.Context, config: Path | None, debug: bool) -> Prepare:
    """A function of a stage's name, its options and its inputs that says what `ireasoner NAME …` would do: variables
    and ireasoner.toml have their say as if it had been typed.

    What it returns raises typer.BadParameter for settings that are wrong.
    """
    group: Any = typer.main.get_command(_stages)
    shared = [*(["--config", str(config)] if config else []), *(["--debug"] if debug else [])]

    def prepare(name: str, settings: Mapping[str, object], *inputs: Path) -> Work:
        given = [word for key, value in settings.items() if value is not None for word in (f"--{key}", str(value))]
        stage = group.commands[name]
        with stage.make_context(name, [*shared, *given, "--", *map(str, inputs)], context.parent) as own:
            return stage.invoke(own)

    return prepare
