"""Where a setting of the command that runs came from, for what is said when the command has failed."""

from pathlib import Path

import typer

from ireasoner_cli import config

_running: list[
    typer.Context
] = []  # the last of them; typer hands the context out while options are read, and not later


def apply(context: typer.Context, file: Path | None) -> Path | None:
    """`config.apply`, and the context is remembered."""
    _running[:] = [context]
    return config.apply(context, file)


def of(name: str) -> str | None:
    """The settings file or the variable that option `name` was taken from; None for the command line and for what was
    left out."""
    context = _running[0] if _running else None
    source = context.get_parameter_source(name) if context else None
    if context is None or source is None or source.name not in ("ENVIRONMENT", "DEFAULT_MAP"):
        return None
    if source.name == "ENVIRONMENT":
        return f"{context.auto_envvar_prefix}_{name.upper()}"
    return str(context.params.get("config") or config.DEFAULT_FILE)
