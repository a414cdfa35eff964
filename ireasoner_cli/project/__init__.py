"""`ireasoner init`: a folder of one's own, with settings, a Makefile and what to type."""

from contextlib import suppress
from importlib import resources
from pathlib import Path

from stages.errors import EngineError, UsageError, why


def lay_out(folder: Path) -> list[str]:
    """Writes the files of a new project into `folder`, which may hold others; returns their names.

    Raises UsageError when one of them is there already, EngineError when the folder cannot be written.
    """
    templates = {file.name: file.read_bytes() for file in (resources.files(__name__) / "templates").iterdir()}
    if there := [name for name in sorted(templates) if (folder / name).exists()]:
        raise UsageError(f"{folder / there[0]} is there already; name another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in templates.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        for name in templates:  # else half a project is in the way of the next try
            with suppress(OSError):
                (folder / name).unlink()
        raise EngineError(f"{folder}: cannot be written ({why(error)})") from error
    return sorted(templates)
