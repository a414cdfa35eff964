"""Choices by name: the modules of a folder are what there is to choose from. To add one, add its file."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from stages.errors import UsageError


def names(package: str) -> list[str]:
    """What there is in `package`, by its dotted name, in alphabetical order."""
    return sorted(module.name for module in iter_modules(import_module(package).__path__))


def load(package: str, kind: str, name: str) -> ModuleType:
    """The module of that name; `kind` says in the message what it would have been. Raises UsageError for another."""
    if name not in (known := names(package)):
        raise UsageError(unknown(kind, name, known))
    return import_module(f"{package}.{name}")


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that is none of those `known`."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"unknown {kind} {name!r}; the nearest is {near!r}, of {', '.join(known)}"
