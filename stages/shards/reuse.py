"""Whether what is there already is what would be made: the same inputs, parameters, model and policy."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.contract import Metadata
from stages.errors import DamagedOutput, DataError, MadeDifferently, UsageError
from stages.shards.durable import clear_leftovers
from stages.shards.locating import parts_of_other_counts
from stages.shards.parquet import read_metadata
from stages.shards.sealing import checked_sha256

SHOWN_INPUTS = 3
SHOWN_DIFFERENCES = 4


def is_done(output: Path, metadata: Metadata, force: bool, tidy: bool = True) -> bool:
    """Whether `output` is there, undamaged, and was made from the same inputs with the same parameters; if so, and
    unless `tidy` is off, what interrupted runs have left is cleared away.

    Raises, when `force` is off, UsageError if something else is in its place, DataError if it is damaged.
    """
    for _, count in parts_of_other_counts(output):
        if not force:
            raise UsageError(f"{output.parent} holds parts of {count}; use --force to replace them")
    if not output.exists() or force:
        return False
    if not output.is_file():
        raise UsageError(f"{output}: in the way, and not a file")
    try:
        checked_sha256(output)
        made = read_metadata(output)
    except DataError as error:
        raise DamagedOutput(str(error)) from error
    refuse_differences(f"{output} exists and", made, metadata)
    if tidy:
        clear_leftovers(output)
    return True


def is_usable(file: Path, metadata: Metadata, force: bool) -> bool:
    """Whether what an interrupted run left in `file` is undamaged and was made as `metadata` says. Raises UsageError
    where it was made differently, unless `force` gives that up."""
    try:
        checked_sha256(file)
        made = read_metadata(file)
    except DataError:
        return False  # what is damaged is made again
    if not force:
        refuse_differences(f"what an interrupted run left in {file.parent}", made, metadata)
    return not differences(made, metadata)


def refuse_differences(what: str, made: Metadata, wanted: Metadata) -> None:
    """Raises MadeDifferently, naming what differs, unless `what`, made as `made`, is what is wanted."""
    if different := differences(made, wanted):
        shown = "; ".join(different[:SHOWN_DIFFERENCES])
        more = f"; and {len(different) - SHOWN_DIFFERENCES} more" if len(different) > SHOWN_DIFFERENCES else ""
        raise MadeDifferently(f"{what} was made differently ({shown}{more})")


def differences(old: Metadata, new: Metadata, ignore: Sequence[str] = ()) -> list[str]:
    """What sets two files' metadata apart, one phrase each: `params.alpha: 0.7 → 1.0`. Version and device do
    not."""
    ignored = {"version", "device", *ignore}
    if old.model.sha256 is not None and old.model.sha256 == new.model.sha256:
        ignored.add("model")  # the same files, wherever they lie
    before, after = (
        {name: value for name, value in _flat_inputs(meta).items() if name not in ignored} for meta in (old, new)
    )
    return list(_differences(before, after, ""))


def _flat_inputs(metadata: Metadata) -> dict[str, Any]:
    fields = json.loads(metadata.to_json())
    fields["inputs"] = {
        f"{entry.name}#{place}" if place else entry.name: entry.sha256[:12]
        for place, entry in enumerate(metadata.inputs)
    }
    return fields


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {_brief(old)} → {_brief(new)}"


def _brief(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        value = value[:12]  # of a SHA-256
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def plan(output: Path, metadata: Metadata, unit: str, total: int, done: int) -> dict[str, Any]:
    """What a dry run says, as a Result's summary: `done` of the `total` groups or questions are there already."""
    names = ", ".join(ref.name for ref in metadata.inputs[:SHOWN_INPUTS])
    more = f" and {len(metadata.inputs) - SHOWN_INPUTS} more" if len(metadata.inputs) > SHOWN_INPUTS else ""
    return {
        "would_read": names + more,
        "would_replace" if output.exists() else "would_write": str(output),
        unit: total,
        f"{unit}_taken_up": done,
    }
