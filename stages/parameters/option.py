"""How an option is declared: as a field of a dataclass that says everything there is to say of it."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

P = TypeVar("P", bound=Any)

OPTION = "option"


@dataclass(frozen=True)
class Option:
    """What a field says beside its name, its type and its default.

    symbol: the design's, such as δ. panel: of the help. minimum, maximum: both allowed. shown: what stands for the
    default in the help; False for nothing. metavar: what stands for the value there. completed: what a shell offers.
    recorded: whether a shard records it; what does not shape the rows is not.
    """

    help: str
    symbol: str | None = None
    panel: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    shown: str | bool = True
    metavar: str | None = None
    completed: tuple[str, ...] = ()
    recorded: bool = True


def option(default: Any, help: str = "", **more: Any) -> Any:
    """A field with its `Option`; `more` are the latter's fields."""
    return field(default=default, metadata={OPTION: Option(help, **more)})


def option_of(declared: Field[Any]) -> Option | None:
    """What a field says as an option; None for one that is none."""
    return declared.metadata.get(OPTION)


def recorded(params: Any) -> dict[str, Any]:
    """What a shard records of a stage's parameters, those of the groups within them included."""
    found: dict[str, Any] = {}
    for declared in fields(params):
        value, own = getattr(params, declared.name), option_of(declared)
        if is_dataclass(value):
            found |= recorded(value)
        elif own is not None and own.recorded:
            found[declared.name] = value
    return found


def from_recorded(params: P, found: Mapping[str, Any]) -> P:
    """A copy of `params`, those of a stage, with what a shard has recorded of them."""
    values: dict[str, Any] = {}
    for declared in fields(params):
        value, own = getattr(params, declared.name), option_of(declared)
        if is_dataclass(value):
            values[declared.name] = from_recorded(value, found)
        elif own is not None and own.recorded and declared.name in found:
            values[declared.name] = found[declared.name]
    return replace(params, **values)
