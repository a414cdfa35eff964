"""Where a benchmark's Parquet files lie: named one by one, in a folder of downloads, or on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from stages.errors import EngineError, UsageError
from stages.images.folders import files_below
from stages.tasks.task import Task


def files_of(task: Task, inputs: Sequence[Path], data: Path | None) -> list[Path]:
    """The files of `task`: those in `inputs` (files, folders or one hub id), else those below the folder `data`,
    else those of the task's own data set on the hub.

    Raises UsageError when there are none, EngineError when the hub cannot be reached.
    """
    if not inputs:
        return _below(task, data) if data else _from_hub(task, task.hub)
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = _parquet_below(path)
            if not found:
                raise UsageError(f"{path}: the directory holds no Parquet file")
            found = [file for file in found if _is_split(file, task.split)] or found
            files += _own(task, found, path) or found  # a data set of several configurations: the task's alone
        elif not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and path.suffix != ".parquet":
            files += _from_hub(task, str(path))
        else:
            files.append(path)
    return files


def _below(task: Task, data: Path) -> list[Path]:
    """The files of the task's split in a folder that bears one of the task's names, wherever below `data`."""
    if not data.is_dir():
        raise UsageError(f"{data}: no such directory")
    files = _own(task, [file for file in _parquet_below(data) if _is_split(file, task.split)], data)
    if files:
        return files
    raise UsageError(
        f"{data}: no {task.split} files of {task.title} (looked for {task.split}*.parquet in a folder named "
        f"{' or '.join(task.folders)})"
    )


def _parquet_below(folder: Path) -> list[Path]:
    return [folder / name for name in files_below(folder) if name.endswith(".parquet")]


def _own(task: Task, files: Sequence[Path], root: Path) -> list[Path]:
    """Those of the files below `root` that lie in a folder of the task's first name that any lies in."""
    for name in task.folders:
        if own := [file for file in files if _lies_in(file.relative_to(root).parent, name)]:
            return own
    return []


def _lies_in(folder: Path, name: str) -> bool:
    """Whether a part of the path is `name`, also as the hub's cache writes it: datasets--owner--name."""
    return any(part.lower().rpartition("--")[2] == name.lower() for part in folder.parts)


def _is_split(file: Path, split: str) -> bool:
    """`validation.parquet`, `validation-00000-of-00006.parquet`: one of the split's files."""
    return re.fullmatch(rf"{split}(?:-\d.*)?\.parquet", file.name) is not None


def _from_hub(task: Task, name: str) -> list[Path]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    patterns = [task.hub_files] if name == task.hub else [f"{task.split}.parquet", f"*/{task.split}-*.parquet"]
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EngineError(
            f"{name}: neither a file here nor to be had from the Hugging Face hub ({reason}); "
            "name the benchmark's Parquet files, or their folder with --data"
        ) from error
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if not files:
        raise UsageError(f"{name}: this data set has no {task.split} split in Parquet")
    return files
