"""`ireasoner.toml`: its keys become typer's default_map, below flags and environment, above defaults."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from stages.errors import why

DEFAULT_FILE = Path("ireasoner.toml")
OWN = "ireasoner.own"  # where the context keeps the names that the command's own table sets
NOT_SETTINGS = {"help", "config"}


def apply(context: typer.Context, file: Path | None) -> Path | None:
    """The callback of `--config`, eager so that it runs before the other options look for their defaults.

    Top-level keys serve every command that has the option; `[command]` tables override them.
    """
    if context.resilient_parsing:
        return file
    path = file or DEFAULT_FILE
    if file is None and not path.is_file():
        return file
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path}: {why(error)}") from error
    options = _options_by_command(context)
    everywhere = set().union(*options.values())
    shared = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    for key in shared:
        _check(key, everywhere, str(path))
    for table, settings in tables.items():
        _check(table, set(options), f"{path}, table")
        for key in settings:
            _check(key, options[table], f"{path} [{table}]")
    own = context.info_name or ""
    settings = {_name(key): value for key, value in shared.items() if _name(key) in options[own]}
    settings |= {_name(key): value for key, value in tables.get(own, {}).items()}
    context.default_map = settings
    context.meta[OWN] = {_name(key) for key in tables.get(own, {})}
    return file


def is_own(context: typer.Context, name: str) -> bool:
    """Whether option `name` was set for this command: by a flag, a variable or its own table, and not by a key at the
    top of the file, nor left to its default."""
    source = context.get_parameter_source(name)
    return source is not None and (source.name in ("COMMANDLINE", "ENVIRONMENT") or name in context.meta.get(OWN, ()))


def is_default(context: typer.Context, name: str) -> bool:
    """Whether option `name` was left to its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"


def _name(key: str) -> str:
    return key.replace("-", "_")


def _options_by_command(context: typer.Context) -> dict[str, set[str]]:
    group: Any = context.parent.command if context.parent else None
    return {
        name: {parameter.name for parameter in command.params if parameter.param_type_name == "option"} - NOT_SETTINGS
        for name, command in group.commands.items()
    }


def _check(key: str, known: set[str], where: str) -> None:
    if _name(key) not in known:
        near = get_close_matches(_name(key), known, n=1, cutoff=0.0)
        hint = f"; the nearest valid key is {near[0]!r}" if near else ""
        raise typer.BadParameter(f"{where}: unknown key {key!r}{hint}")
