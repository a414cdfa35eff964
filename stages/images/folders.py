"""The files of a folder tree."""

import os
from collections.abc import Iterator
from pathlib import Path

from stages.errors import DataError, why


def files_below(root: Path) -> Iterator[str]:
    """Paths from `root` of the files below it, hidden ones and those in hidden folders left out.

    Links to folders are followed, and every folder is looked at once, so that no loop of links is endless: by its own
    path where it has one below `root`, else by the first link in the order of names. Raises DataError for a folder that
    cannot be looked into.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(root)]
    while waiting:
        linked: list[str] = []
        for folder, names, files in os.walk(waiting.pop(0), onerror=_fail):
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in seen:
                names.clear()
                continue
            seen.add((found.st_dev, found.st_ino))
            names[:] = sorted(name for name in names if not name.startswith("."))
            linked += [path for name in names if os.path.islink(path := os.path.join(folder, name))]
            yield from (os.path.relpath(os.path.join(folder, name), root) for name in files if not name.startswith("."))
        waiting += linked


def _fail(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be looked into ({why(error)})") from error
