"""The options of commands: those of stages from the dataclasses that declare them (`stages.parameters`), and those that
only a command line has, declared here."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ireasoner_cli import config
from stages.parameters import Option as Declared
from stages.parameters import option_of

C = TypeVar("C", bound=Callable[..., Any])

# Every option also has its IREASONER_<COMMAND>_<OPTION> variable; saying so at each would drown the help.
Option = partial(typer.Option, show_envvar=False)

POOL = "A folder tree of images; rows with images, in Parquet, Arrow or JSON lines; or a dataset on the hub."

Inputs = Annotated[list[Path], typer.Argument(help="One file, several, or a directory of part files.")]
Model = Annotated[
    str | None,
    Option(help="Hugging Face directory or hub id.", show_default="what the input or the policy records"),
]
Force = Annotated[bool, Option("--force", help="Replace an output that was made differently.")]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks and the engines' own logs.")]
Config = Annotated[
    Path | None,
    Option(
        callback=config.apply,
        is_eager=True,
        help="Settings file.",
        show_default="ireasoner.toml, if there is one",
    ),
]

Recipe = Annotated[
    str | None,
    Option(
        callback=config.apply_recipe,
        is_eager=True,
        metavar="NAME",
        help="A method's settings, under your own; `ireasoner recipes` lists them, and a .toml file is one.",
        show_default=False,
    ),
]


Workers = Annotated[
    int | None,
    Option(
        min=1,
        help="Processes at work at the same time, each on GPUs of its own.",
        show_default="the GPUs there are, by --tensor-parallel; 1 on a CPU",
    ),
]

Cluster = Annotated[
    str | None,
    Option(
        "--ray",
        metavar="ADDRESS",
        help="Workers on a Ray cluster; `auto` is the one that this machine belongs to (the extra `ray`).",
        show_default=False,
    ),
]

Pass = Annotated[
    str,
    Option(
        "--pass",
        callback=config.apply_pass,
        is_eager=True,
        metavar="NAME",
        help="The name of these rows, which go beside those that are there; the table `pass` of that name has their "
        "settings.",
        rich_help_panel="Pass",
    ),
]


def declared(command: C) -> C:
    """`command` as typer takes it: a parameter whose type is a dataclass of options stands for these options, which are
    put together again when it is called."""
    signature = inspect.signature(command)
    groups: dict[str, Any] = {}
    flat: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        kind: Any = parameter.annotation
        if is_dataclass(kind):
            groups[parameter.name] = kind()  # type: ignore[operator]
            flat += _parameters(groups[parameter.name])
        else:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def called(**given: Any) -> Any:
        own = {name: _filled(groups[name], given) if name in groups else given[name] for name in signature.parameters}
        return command(**own)

    called.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in flat}
    return called  # type: ignore[return-value]


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    """An option of the command line for each field of `group`, and of the groups within it, that is declared as one."""
    for field in fields(group):
        value, option = getattr(group, field.name), option_of(field)
        if option is not None:
            kind: Any = field.type
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=value,
                annotation=Annotated[kind, _typed(field.name, option, value)],
            )
        elif is_dataclass(value):
            yield from _parameters(value)


def _typed(name: str, option: Declared, default: Any) -> Any:
    flag = [f"--{name.replace('_', '-')}"] if default is False else []  # a switch that only turns on
    return Option(
        *flag,
        help=", ".join(filter(None, (option.symbol, option.help))),
        min=option.minimum,
        max=option.maximum,
        metavar=option.metavar,
        autocompletion=_starting(option.completed) if option.completed else None,
        show_default=option.shown,
        rich_help_panel=option.panel,
    )


def _starting(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What completes a word that has been begun."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _filled(group: Any, given: Mapping[str, Any]) -> Any:
    """`group` with the values that the command line gave its options."""
    values: dict[str, Any] = {}
    for field in fields(group):
        value = getattr(group, field.name)
        if option_of(field) is not None:
            values[field.name] = given[field.name]
        elif is_dataclass(value):
            values[field.name] = _filled(value, given)
        elif field.name in given:  # an option that only a command line has, and a stage records
            values[field.name] = given[field.name]
    return replace(group, **values)
