"""Methods of the field as settings files: one a method, of the form of `ireasoner.toml`, with what is known of it in
comments. To add one, add its file.

A recipe may have phases, which `run` goes through in turn: `[[phase]]` tables with a number of iterations and tables of
settings that stand above the rest of the recipe. `NAME:2` is a recipe in its second phase. And it may have passes,
`[[pass]]` tables with a name and settings of `rollout`, in the order in which `run` makes them.
"""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from stages.errors import why

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Phase:
    """`iterations` of `run` with these settings, a dict a command."""

    iterations: int
    settings: dict[str, dict[str, Any]]


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def text(name: str) -> str:
    """The settings file as it is: of a recipe that is shipped, or of one's own where the name is that of a .toml file.

    Raises typer.BadParameter where there is none.
    """
    file = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        base, phase = _phase_of(name)
        if base in names():
            raise typer.BadParameter(f"{name}: `run` goes through the phases of {base} by itself; leave out :{phase}")
        near = get_close_matches(name, names(), n=1, cutoff=0.0)
        raise typer.BadParameter(f"no recipe {name!r}; the nearest is {near[0]!r}, of {', '.join(names())}")
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {why(error)}") from error


def title(name: str) -> str:
    """What the method is, which its file's first line says."""
    return text(name).splitlines()[0].removeprefix("# ")


def load(recipe: str) -> tuple[dict[str, Any], str]:
    """The settings of NAME, or of NAME:PHASE in that phase, and what to call them in messages."""
    name, number = _phase_of(recipe)
    content, phases = _read(name)
    where = f"recipe {recipe}"
    if number is not None:
        if not 1 <= number <= len(phases):
            raise typer.BadParameter(f"{where}: {name} has {len(phases) or 'no'} phases")
        for command, settings in phases[number - 1].settings.items():
            if not isinstance(own := content.get(command, {}), dict):
                raise typer.BadParameter(f"{where}: {command} is a table in the phase, and none before it")
            content[command] = {**own, **settings}
    return content, where


def _phase_of(recipe: str) -> tuple[str, int | None]:
    """The name and the phase of NAME:PHASE; None as the phase of a NAME."""
    name, _, number = recipe.rpartition(":")
    return (name, int(number)) if name and number.isdecimal() else (recipe, None)


def phases(recipe: str) -> list[Phase]:
    """What `run` goes through in turn, in the order of the file; empty for a recipe without."""
    return _read(recipe)[1]


def _read(name: str) -> tuple[dict[str, Any], list[Phase]]:
    try:
        content = tomllib.loads(text(name))
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"recipe {name}: {error}") from error
    found, tables = [], content.pop("phase", [])
    if not isinstance(tables, list):
        raise typer.BadParameter(f"recipe {name}: phases are tables, [[phase]]")
    for number, phase in enumerate(tables, 1):
        iterations = phase.pop("iterations", None) if isinstance(phase, dict) else None
        if type(iterations) is not int or iterations < 1 or not all(isinstance(v, dict) for v in phase.values()):
            raise typer.BadParameter(f"recipe {name}: phase {number} needs `iterations`, and tables of settings alone")
        found.append(Phase(iterations, phase))
    return content, found
