"""Which columns of a dataset hold the pictures, the questions and the answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.errors import DataError, UsageError
from stages.images import forms
from stages.images.sources import Record, Source, holds_pictures

NAMES = ("image", "images")  # before any other column that could be meant
HEAD = 16  # rows looked at


@dataclass(frozen=True)
class Columns:
    """The columns that are asked for, or fields of theirs (`reward_model.ground_truth`)."""

    image: str | None = None
    question: str | None = None
    target: str | None = None

    def __bool__(self) -> bool:
        return any(self.asked())

    def asked(self) -> Iterator[tuple[str, str]]:
        """The name of each, and the option that gives it."""
        options = ((self.image, "--image-column"), (self.question, "--questions"), (self.target, "--target"))
        yield from ((name, option) for name, option in options if name is not None)

    def check(self, file: Path, source: Source) -> None:
        """Raises UsageError where a column that is asked for is not there, DataError where it is there twice."""
        for name, option in self.asked():
            found = source.columns.count(_top(name, source))
            if not found:
                raise UsageError(f"{file}: has no column {name!r} ({option}); it has {_listed(source)}")
            if found > 1:
                raise DataError(f"{file}: has the column {_top(name, source)} more than once")

    def tops(self, source: Source) -> list[str]:
        """The source's columns in which they lie."""
        return list(dict.fromkeys(_top(name, source) for name, _ in self.asked()))


def image_column(file: Path, source: Source) -> str:
    """`image` or `images`; else the only column whose rows begin as pictures do, or without such a column the only one
    with names of pictures.

    Raises DataError where there is none, or are several.
    """
    once = [name for name in source.columns if source.columns.count(name) == 1]
    for name in NAMES:
        if name in once and any(map(forms.could_be, _head(source, name))):
            return name
    heads = {name: _head(source, name) for name in once}
    found = [name for name, head in heads.items() if any(map(forms.begins_as_picture, head))]
    found = found or [name for name, head in heads.items() if any(map(forms.names_picture, head))]
    if len(found) > 1:
        raise DataError(f"{file}: several columns hold pictures ({', '.join(found)}); name one with --image-column")
    found += [name for name in NAMES if name in source.columns]  # nothing in them, as far as was looked
    if not found:
        raise DataError(
            f"{file}: no image column; it has {_listed(source)}. A picture is bytes, a struct of bytes and path, a "
            "path or base64 text, or a list of these, in a column `image` or `images` or one that --image-column names"
        )
    return found[0]


def kind_of(name: str, source: Source) -> pa.DataType | None:
    """The type of a column; None where that is not known, as of a field of one."""
    return source.kind(name) if name in source.columns else None


def _top(name: str, source: Source) -> str:
    """The column in which `name` lies: `reward_model` for its field `reward_model.ground_truth`."""
    return name if name in source.columns else name.split(".")[0]


def value(record: Record, name: str | None) -> Any:
    """What a record has under `name`, a column or a field of one; None without a name."""
    if name is None or name in record:
        return record.get(name) if name is not None else None
    found: Any = record
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _listed(source: Source) -> str:
    return ", ".join(source.columns) or "none"


def _head(source: Source, name: str) -> list[Any]:
    """The first rows' values, where the column's type is one that pictures come in."""
    if not holds_pictures(source.kind(name)):
        return []
    return [row[name] for _, row in source.rows(range(min(HEAD, len(source))), [name]) if isinstance(row, dict)]
