"""Where settings come from: `ireasoner.toml`, whose keys become typer's default_map, below flags and variables and
above those of a recipe and the defaults; and the variables, of which none may be misspelt."""

import math
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ireasoner_cli import recipes
from stages.errors import why

DEFAULT_FILE = Path("ireasoner.toml")
FILE, RECIPE = "ireasoner.file", "ireasoner.recipe"  # under which, by command, the context keeps what they set
PASS = "ireasoner.pass"  # under which it keeps which pass is to be made
NOT_TAKEN = {"help", "pass_name"}  # from the environment
NOT_SETTINGS = {*NOT_TAKEN, "config"}
PREFIX = "IREASONER_"
NOT_OURS = {"IREASONER_VERSION"}  # which images for containers set, and which says nothing to any command


class Command(TyperCommand):
    """A command that says where a wrong value of an option came from, unless it was typed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
            for parameter in self.params:
                _check_finite(parameter, ctx.params.get(parameter.name))
            return rest
        except typer.BadParameter as error:
            error.message = _in_our_words(error)
            if source := _source(ctx, error.param):
                error.message += f" (from {source})"
            raise

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        return [_kept_to_the_command_line(each) if each.name in NOT_TAKEN else each for each in params]


class Group(TyperGroup):
    """The commands together; what it can be told by itself is no setting, and never comes from the environment."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_kept_to_the_command_line(each) for each in super().get_params(ctx)]


def _kept_to_the_command_line(parameter: Any) -> Any:
    parameter.allow_from_autoenv = parameter.show_envvar = False
    return parameter


def _in_our_words(error: typer.BadParameter) -> str:
    """Without what the library that checks values says of its own exception."""
    return str(error.message).removeprefix("Value error, ")


def _check_finite(parameter: Any, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number", param=parameter)


def _source(context: Any, parameter: Any) -> str | None:
    """Where the value of an option came from; None for the command line and for what was left out."""
    source = context.get_parameter_source(parameter.name) if parameter is not None else None
    if source is not None and source.name == "ENVIRONMENT":
        return f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
    if source is not None and source.name == "DEFAULT_MAP":
        settings = next(each for each in reversed(_taken(context)) if parameter.name in each.values)
        return f"{settings.where}{f' [{context.info_name}]' if parameter.name in settings.own else ''}"
    return None


_running: list[typer.Context] = []  # at most one: typer hands it out while options are read, and not later


def origin(name: str) -> str | None:
    """Where the running command's option `name` was taken from, for what is said when it has failed; None for the
    command line and for what was left out."""
    if not _running:
        return None
    command: Any = _running[0].command
    return _source(_running[0], next((each for each in command.params if each.name == name), None))


def apply(context: typer.Context, file: Path | None) -> Path | None:
    """The callback of `--config`, eager so that it runs before the other options look for their defaults.

    Top-level keys serve every command that has the option; `[command]` tables override them. All of the file is
    checked, and all variables, whichever command runs.
    """
    if context.resilient_parsing:
        return file
    _running[:] = [context]
    _check_variables(_options_by_command(context))
    path = file or DEFAULT_FILE
    if file is None and not path.exists():
        _take(context, FILE, Settings())
        return file
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path}: {why(error)}") from error
    _take(context, FILE, _settings_of(context, content, str(path)))
    return file


def apply_recipe(context: typer.Context, recipe: str | None) -> str | None:
    """The callback of `--recipe`, eager too, and declared after `--config`, whose file may name the recipe."""
    if context.resilient_parsing:
        return recipe
    settings = Settings() if recipe is None else _settings_of(context, *recipes.load(recipe))
    _take(context, RECIPE, settings)
    return recipe


def apply_pass(context: typer.Context, name: str) -> str:
    """The callback of `--pass`, eager too: the pass's own settings stand above those of the command."""
    if not context.resilient_parsing:
        context.meta[f"{PASS} {context.info_name}"] = name
        _set_defaults(context)
    return name


def passes(context: typer.Context) -> list[str]:
    """The names of the passes that there are settings of, in order: the recipe's, then those that the file adds."""
    return list(dict.fromkeys(name for source in (RECIPE, FILE) for name in _from(context, source).passes))


@dataclass(frozen=True)
class Settings:
    """What a source sets of a command's options by name: `values`, and which of them in the command's own table;
    `passes`: of `rollout`'s, in each pass by its name. where: the source, as messages call it."""

    values: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    where: str = ""
    passes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _take(context: typer.Context, source: str, settings: Settings) -> None:
    """Settings that one source gives this command, whichever of them is looked at first."""
    context.meta[f"{source} {context.info_name}"] = settings
    _set_defaults(context)


def _set_defaults(context: typer.Context) -> None:
    context.default_map = {name: value for settings in _taken(context) for name, value in settings.values.items()}


def _taken(context: Any) -> list[Settings]:
    """What is set of the options of the command, the later above the earlier: by the recipe, by the file, and by these
    for the pass that is to be made."""
    both = [_from(context, source) for source in (RECIPE, FILE)]
    name = context.meta.get(f"{PASS} {context.info_name}")
    of_pass = [Settings(each.passes[name], where=_where(each.where, name)) for each in both if name in each.passes]
    return both + of_pass


def _from(context: Any, source: str) -> Settings:
    return context.meta.get(f"{source} {context.info_name}", Settings())


def _where(source: str, pass_name: str) -> str:
    return f"{source}, pass {pass_name}"


def _settings_of(context: typer.Context, content: dict[str, Any], where: str) -> Settings:
    """What the content of a file sets of this command's options. Raises typer.BadParameter for what is wrong, wherever
    in it."""
    options = _options_by_command(context)
    content = dict(content)
    made = _passes_of(context, content.pop("pass", []), options["rollout"], where)
    shared = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    everywhere = set().union(*options.values())
    for key, value in shared.items():
        _check_key(key, everywhere, where)
        for known in options.values():
            if parameter := known.get(_name(key)):
                _check_value(context, parameter, key, value, where)
    for table, settings in tables.items():
        _check_key(table, options, f"{where}, table")
        for key, value in settings.items():
            _check_key(key, options[table], f"{where} [{table}]")
            _check_value(context, options[table][_name(key)], key, value, f"{where} [{table}]")
    name = context.info_name or ""
    values = {_name(key): value for key, value in shared.items() if _name(key) in options[name]}
    own = {_name(key): value for key, value in tables.get(name, {}).items()}
    return Settings({**values, **own}, frozenset(own), where, made)


def _passes_of(context: typer.Context, tables: Any, known: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """What `[[pass]]` tables set of `rollout`'s options, by the passes' names."""
    found: dict[str, dict[str, Any]] = {}
    for number, table in enumerate(tables if isinstance(tables, list) else [tables], 1):
        name = table.get("name") if isinstance(table, dict) else None
        if not isinstance(name, str) or name in found:
            raise typer.BadParameter(f"[[pass]] number {number} needs a `name` of its own", param_hint=where)
        settings = {key: value for key, value in table.items() if key != "name"}
        for key, value in settings.items():
            _check_key(key, known, _where(where, name))
            _check_value(context, known[_name(key)], key, value, _where(where, name))
        found[name] = {_name(key): value for key, value in settings.items()}
    return found


def is_own(context: typer.Context, name: str) -> bool:
    """Whether option `name` was set for this command: by a flag, a variable or its own table, and not by a key at the
    top of the file, nor left to its default."""
    source = context.get_parameter_source(name)
    own = _from(context, FILE).own
    return source is not None and (source.name in ("COMMANDLINE", "ENVIRONMENT") or name in own)


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether option `name` was set by a flag."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def is_default(context: typer.Context, name: str) -> bool:
    """Whether option `name` was left to its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"


def typed(context: typer.Context, without: Collection[str], **more: object) -> list[str]:
    """The words of the command as they were typed behind `ireasoner`, `without` some options and with others."""
    name = context.info_name or ""
    options, arguments = [], []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in without:
            continue
        value = context.params[parameter.name or ""]
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            arguments += [str(each) for each in values]
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            options += [word for each in values for word in (parameter.opts[0], str(each))]
    options += [word for key, value in more.items() for word in (f"--{key}", str(value))]
    return [name, *options, "--", *arguments]


def _name(key: str) -> str:
    return key.replace("-", "_")


def _options_by_command(context: typer.Context) -> dict[str, dict[str, Any]]:
    """The options that are settings, of every command, by their names."""
    group: Any = context.parent.command if context.parent else None
    return {
        name: {
            parameter.name: parameter
            for parameter in command.params
            if parameter.param_type_name == "option" and parameter.name not in NOT_SETTINGS
        }
        for name, command in group.commands.items()
    }


def _check_key(key: str, known: Iterable[str], where: str) -> None:
    if _name(key) not in known:
        near = _nearest(_name(key), known)
        hint = f"; the nearest valid key is {near!r}" if near else ""
        raise typer.BadParameter(f"unknown key {key!r}{hint}", param_hint=where)


def _check_value(context: typer.Context, parameter: Any, key: str, value: object, where: str) -> None:
    if parameter.multiple and isinstance(value, str):
        raise typer.BadParameter(f'{key}: write a list, {key} = ["{value}"]', param_hint=where)
    if not parameter.multiple and isinstance(value, list | dict):
        raise typer.BadParameter(f"{key}: one value, and no list or table", param_hint=where)
    if isinstance(value, bool) and not parameter.is_flag:
        raise typer.BadParameter(f"{key}: {str(value).lower()} is no value of it", param_hint=where)
    try:
        _check_finite(parameter, parameter.process_value(context, value))
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{key}: {_in_our_words(error)}", param_hint=where) from error


def _check_variables(options: dict[str, dict[str, Any]]) -> None:
    """Raises typer.BadParameter for a variable of ours that no command reads."""
    known = {f"{command.upper()}_{name.upper()}" for command, own in options.items() for name in [*own, "config"]}
    for variable, value in os.environ.items():
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and value and variable not in NOT_OURS and name not in known:
            near = _nearest(name, known)
            hint = f"; the nearest valid name is {PREFIX}{near}" if near else ""
            raise typer.BadParameter(f"{variable} is no setting{hint}", param_hint="the environment")


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most alike, or abbreviates the last words of `name`: lr for learning_rate."""
    ours = set(known)
    words = name.split("_")
    for first in range(len(words) - 1):
        short = "_".join([*words[:first], "".join(word[:1] for word in words[first:])])
        if short in ours:
            return short
    return next(iter(get_close_matches(name, sorted(ours), n=1)), None)
