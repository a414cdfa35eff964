"""A stage's command with the settings it would have on a command line of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ireasoner_cli.commands import STAGES
from ireasoner_cli.config import Command
from ireasoner_cli.work import Work

_stages = typer.Typer()
for name, command in STAGES.items():
    _stages.command(name, cls=Command)(command)
_group: Any = typer.main.get_command(_stages)


def read_words(words: Sequence[str], program: Any) -> Work:
    """What `ireasoner WORDS` would do: variables and ireasoner.toml have their say as if it had been typed. `program`
    is the context of all commands, whose settings are looked at.

    Raises typer.BadParameter for settings that are wrong.
    """
    stage = _group.commands[words[0]]
    with stage.make_context(words[0], list(words[1:]), program) as own:
        return stage.invoke(own)


class Prepare:
    """Stages' commands, for a command that runs them; by a stage's name, its options and its inputs."""

    def __init__(self, context: typer.Context, config: Path | None, debug: bool) -> None:
        self._program = context.parent
        self._shared = [*(["--config", str(config)] if config else []), *(["--debug"] if debug else [])]

    def words(self, name: str, settings: Mapping[str, object], *inputs: Path) -> list[str]:
        """The command as it would be typed behind `ireasoner`."""
        given = [word for key, value in settings.items() if value is not None for word in (f"--{key}", str(value))]
        return [name, *self._shared, *given, "--", *map(str, inputs)]

    def __call__(self, name: str, settings: Mapping[str, object], *inputs: Path) -> Work:
        """What the command comes to. Raises as `read_words` does."""
        return read_words(self.words(name, settings, *inputs), self._program)

    def options(self, name: str, settings: Mapping[str, object], *inputs: Path) -> Mapping[str, Any]:
        """What the command has for each of its options, by parameter. Raises as `read_words` does."""
        words = self.words(name, settings, *inputs)
        with _group.commands[name].make_context(name, words[1:], self._program) as own:
            return own.params
