"""Rows of a file of JSON lines: an object a line."""

import json
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.errors import DataError, why
from stages.images.sources.source import Problem, Record

BLOCK = 1 << 20
HEAD = 64  # rows whose keys are the columns
LINE_BYTES = 96 << 20  # with one character beyond Latin, four times that as text
MOST_VALUES = 1 << 20  # of a line: an empty object takes three bytes here, and sixty as a Python object
MOST_LEVELS = 50  # of values within values


class JsonLinesSource:
    """Lines are found once, and read one at a time."""

    def __init__(self, file: Path) -> None:
        """Raises DataError when the file cannot be read, or is one JSON array."""
        self._file = file
        self._starts = array("Q")
        try:
            with file.open("rb") as lines:
                self._index(lines)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({why(error)})") from error
        names: dict[str, None] = {}
        for _, row in self._read(range(min(HEAD, len(self)))):
            names |= dict.fromkeys(row if isinstance(row, dict) else ())
        self.columns: Sequence[str] = list(names)

    def _index(self, lines: Any) -> None:
        begins, place = True, 0
        while piece := lines.readline(BLOCK):
            if begins and piece.strip():
                if not self._starts and piece.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                    raise DataError(f"{self._file}: a JSON array; write its rows one a line (jq -c '.[]')")
                self._starts.append(place)
            begins, place = piece.endswith(b"\n"), place + len(piece)

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, wanted: Collection[int], columns: Sequence[str]) -> Iterator[tuple[int, Record | Problem]]:
        for place, row in self._read(sorted(wanted)):
            yield place, row if isinstance(row, Problem) else {name: row.get(name) for name in columns}

    def kind(self, column: str) -> None:
        return None

    def _read(self, places: Sequence[int]) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
        try:
            with self._file.open("rb") as lines:
                for place in places:
                    lines.seek(self._starts[place])
                    yield place, _row(lines.readline(LINE_BYTES + 1), place)
        except OSError as error:
            raise DataError(f"{self._file}: cannot be read ({why(error)})") from error


def _row(line: bytes, place: int) -> dict[str, Any] | Problem:
    where = f"row {place} (counted from 0)"
    if len(line) > LINE_BYTES:
        return Problem(f"{where} is longer than {LINE_BYTES >> 20} MiB")
    if sum(map(line.count, (b",", b"[", b"{"))) > MOST_VALUES:
        return Problem(f"{where} has more than {MOST_VALUES:,} values")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Problem(f"{where} is not JSON ({error})")
    if not isinstance(row, dict):
        return Problem(f"{where} is not a JSON object")
    return row if _is_flat(row) else Problem(f"{where} has more than {MOST_LEVELS} levels of values in values")


def _is_flat(row: dict[str, Any]) -> bool:
    level: list[Any] = [row]
    for _ in range(MOST_LEVELS):
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        level = [each for each in level if isinstance(each, dict | list)]
    return not level
