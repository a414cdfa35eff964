"""Where a benchmark's Parquet files lie: named one by one, in a folder of downloads, or on the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from stages import hub
from stages.errors import UsageError
from stages.images.folders import files_below
from stages.progress import SILENT
from stages.tasks import NAMES, load
from stages.tasks.task import Task

# A file's name says its split where it begins as those of the hub do: validation.parquet, test-00000-of-00006.parquet.
_SPLIT = re.compile(r"((?:train|val|dev|test)\w*)(?:-\d.*)?\.parquet")


def files_of(
    task: Task, inputs: Sequence[Path], data: Path | None, say: Callable[[str], None] = SILENT.say
) -> Sequence[Path]:
    """The files of `task`: those in `inputs` (files, folders or one hub id), else those below the folder `data`,
    else those of the task's own data set on the hub. An evaluation is of one split of one data set: what else is among
    the files named is left out, and `say` told so.

    Raises UsageError when there are none or only another data set's, EngineError when the hub cannot be reached.
    """
    if not inputs:
        return _below(task, data) if data else _from_hub(task, task.hub)
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = _parquet_below(path)
            if not found:
                raise UsageError(f"{path}: the directory holds no Parquet file")
            files += _in_own_folder(task, found, path) or found
        elif hub.is_name(path, (".parquet",)):
            files += _from_hub(task, str(path))
        else:
            files.append(path)
    own = _of_one_split(task, _of_one_data_set(task, files))
    if left := [file for file in inputs if file in files and file not in own]:
        more = f" and {len(left) - 1} more" * (len(left) > 1)
        say(f"{left[0]}{more}: left out, not {task.split} files of {task.title}")
    if (split := _split_of(own[0])) not in (None, task.split):
        say(f"{task.title}: of the split {split}, not of the official {task.split}")
    return own


def _of_one_data_set(task: Task, files: Sequence[Path]) -> Sequence[Path]:
    """Those in the task's own folders where any are. Raises UsageError where one is in another data set's instead."""
    if own := _in_own_folder(task, files):
        return own
    for file in files:
        for name in _others(task):
            if _lies_in(file.parent, name):
                raise UsageError(
                    f"{file}: lies in a folder of {name}, and is not {task.title}'s; name that one's files"
                )
    return files


def _others(task: Task) -> list[str]:
    """The folders of other data sets than the task's, and of other configurations of its own."""
    known = [name for each in map(load, NAMES) for name in (*each.folders, each.hub.rpartition("/")[2])]
    return [name for name in dict.fromkeys(known) if name not in task.folders]


def _of_one_split(task: Task, files: Sequence[Path]) -> Sequence[Path]:
    """Those whose names say the task's split, where any do; else all. Raises UsageError for several other splits."""
    splits = list(dict.fromkeys(split for file in files if (split := _split_of(file))))
    if task.split not in splits and len(splits) > 1:
        raise UsageError(f"{task.title}: the files are of several splits ({', '.join(splits)}); name those of one")
    return [file for file in files if _split_of(file) == task.split] or files


def _split_of(file: Path) -> str | None:
    named = _SPLIT.fullmatch(file.name)
    return named[1] if named else None


def _below(task: Task, data: Path) -> list[Path]:
    """The files of the task's split in a folder that bears one of the task's names, wherever below `data`."""
    if not data.is_dir():
        raise UsageError(f"{data}: no such directory")
    files = _in_own_folder(task, [file for file in _parquet_below(data) if _split_of(file) == task.split], data)
    if files:
        return files
    raise UsageError(
        f"{data}: no {task.split} files of {task.title} (looked for {task.split}*.parquet in a folder named "
        f"{' or '.join(task.folders)})"
    )


def _parquet_below(folder: Path) -> list[Path]:
    return [folder / name for name in files_below(folder) if name.endswith(".parquet")]


def _in_own_folder(task: Task, files: Sequence[Path], root: Path | None = None) -> list[Path]:
    """Those that lie, below `root` if there is one, in a folder of the task's first name that any lies in."""
    for name in task.folders:
        if own := [file for file in files if _lies_in((file.relative_to(root) if root else file).parent, name)]:
            return own
    return []


def _lies_in(folder: Path, name: str) -> bool:
    """Whether a part of the path is `name`, also as the hub's cache writes it: datasets--owner--name."""
    return any(part.lower().rpartition("--")[2] == name.lower() for part in folder.parts)


def _from_hub(task: Task, name: str) -> list[Path]:
    patterns = [task.hub_files] if name == task.hub else [f"{task.split}.parquet", f"*/{task.split}-*.parquet"]
    advice = "; name the benchmark's Parquet files, or their folder with --data"
    folder = hub.fetch(name, patterns, dataset=True, here="a file", advice=advice)
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if not files:
        raise UsageError(f"{name}: this data set has no {task.split} split in Parquet")
    return files
