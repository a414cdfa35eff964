"""`ireasoner.toml` and recipes: their keys become typer's default_map, below flags and environment, above defaults; the
file above the recipe."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from ireasoner_cli import recipes
from stages.errors import why

DEFAULT_FILE = Path("ireasoner.toml")
NOT_SETTINGS = {"help", "config"}
# Under which the context keeps, by command: what file and recipe set, and the names that the command's own table sets.
FILE, RECIPE, OWN = "ireasoner.file", "ireasoner.recipe", "ireasoner.own"


def apply(context: typer.Context, file: Path | None) -> Path | None:
    """The callback of `--config`, eager so that it runs before the other options look for their defaults.

    Top-level keys serve every command that has the option; `[command]` tables override them.
    """
    if context.resilient_parsing:
        return file
    path = file or DEFAULT_FILE
    if file is None and not path.is_file():
        _take(context, FILE, {})
        return file
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path}: {why(error)}") from error
    settings, own = _settings_of(context, content, str(path))
    context.meta[f"{OWN} {context.info_name}"] = own
    _take(context, FILE, settings)
    return file


def apply_recipe(context: typer.Context, recipe: str | None) -> str | None:
    """The callback of `--recipe`, eager too, and declared after `--config`, whose file may name the recipe."""
    if context.resilient_parsing:
        return recipe
    content, where = recipes.load(recipe) if recipe is not None else ({}, "")
    _take(context, RECIPE, _settings_of(context, content, where)[0])
    return recipe


def _take(context: typer.Context, source: str, settings: dict[str, Any]) -> None:
    """Settings that one source gives this command, whichever of the two is looked at first."""
    context.meta[f"{source} {context.info_name}"] = settings
    under, over = (context.meta.get(f"{source} {context.info_name}", {}) for source in (RECIPE, FILE))
    context.default_map = {**under, **over}


def _settings_of(context: typer.Context, content: dict[str, Any], where: str) -> tuple[dict[str, Any], set[str]]:
    """What the content of a file sets of this command's options, and the names that the command's own table sets.

    Raises typer.BadParameter for a key that no command, or not this one, knows.
    """
    options = _options_by_command(context)
    everywhere = set().union(*options.values())
    shared = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    for key in shared:
        _check(key, everywhere, where)
    for table, settings in tables.items():
        _check(table, set(options), f"{where}, table")
        for key in settings:
            _check(key, options[table], f"{where} [{table}]")
    name = context.info_name or ""
    settings = {_name(key): value for key, value in shared.items() if _name(key) in options[name]}
    own = {_name(key): value for key, value in tables.get(name, {}).items()}
    return {**settings, **own}, set(own)


def is_own(context: typer.Context, name: str) -> bool:
    """Whether option `name` was set for this command: by a flag, a variable or its own table, and not by a key at the
    top of the file, nor left to its default."""
    source = context.get_parameter_source(name)
    own = context.meta.get(f"{OWN} {context.info_name}", ())
    return source is not None and (source.name in ("COMMANDLINE", "ENVIRONMENT") or name in own)


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
