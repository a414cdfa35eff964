"""Files and folders that appear whole or not at all, whatever dies meanwhile, and by one process at a time."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stages.errors import BeingWritten, EngineError, UsageError, why


def partial_directory(output: Path) -> Path:
    """Where the unfinished parts of `output` live."""
    return output.with_name(f".{output.name}.partial")


def parts_directory(output: Path) -> Path:
    """Where the parts of `output` lie that several processes make, until they are joined."""
    return output.with_name(f".{output.name}.parts")


@contextlib.contextmanager
def writing(output: Path, force: bool) -> Iterator[Path]:
    """Holds the hidden partial directory of `output` for this process; yields it.

    Raises BeingWritten when another process is writing the same output, or has since it was looked for; EngineError
    when the place cannot be written to, or no longer can.
    """
    partial = partial_directory(output)
    folder_is_new = not output.parent.exists()
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial / "lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise EngineError(f"{output}: cannot be written ({why(error)})") from error
    with open(descriptor) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BeingWritten(f"{output}: another process is writing it") from error
        except OSError as error:
            raise EngineError(f"{output}: cannot be locked ({why(error)}); `ireasoner doctor` says more") from error
        try:
            # Whoever held the lock may have finished since we looked, and taken the directory away with it.
            if not _is_at(lock, partial / "lock") or (output.exists() and not force):
                raise BeingWritten(f"{output}: another process has just written it; run the command again")
            yield partial
        except OSError as error:
            raise EngineError(f"{output}: cannot be written ({why(error)})") from error
        finally:
            if partial.is_dir() and [entry.name for entry in partial.iterdir()] == ["lock"]:
                shutil.rmtree(partial)  # nothing was finished that a later run could take up
                if folder_is_new:
                    with contextlib.suppress(OSError):
                        output.parent.rmdir()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def clear_leftovers(output: Path) -> None:
    """Removes what a run that died after its last rename left beside `output`, unless somebody is at work there."""
    parts = parts_directory(output)
    for left in (parts, partial_directory(parts)):
        shutil.rmtree(left, ignore_errors=True)
    if partial_directory(output).exists():
        with contextlib.suppress(UsageError), writing(output, force=True) as partial:
            shutil.rmtree(partial)


def publish_directory(finished: Path, output: Path) -> None:
    """Puts a finished directory in the place of `output`, one that is there aside first; `restore_directory` mends a
    crash between the two renames."""
    old = _old_directory(output)
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.rename(output, old)
    os.rename(finished, output)
    sync_directory(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_directory(output: Path, force: bool) -> None:
    """Puts back what `publish_directory` had set aside when it was cut off, unless somebody is at work there."""
    old = _old_directory(output)
    if old.exists() and not output.exists():
        with contextlib.suppress(UsageError), writing(output, force):
            os.rename(old, output)


def discard_old_directory(output: Path) -> None:
    """Removes what `publish_directory` had set aside, where it was cut off after its last rename."""
    shutil.rmtree(_old_directory(output), ignore_errors=True)


def _old_directory(output: Path) -> Path:
    return output.with_name(f".{output.name}.old")


def write_file(output: Path, content: bytes) -> None:
    """A file that is there whole, or as it was before; its folder is made. Raises EngineError where it cannot be
    written."""
    unfinished = output.with_name(f".{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        sync_file(unfinished)
        os.replace(unfinished, output)
    except OSError as error:
        raise EngineError(f"{output}: cannot be written ({why(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()  # gone already where all went well


def sync_directory(path: Path) -> None:
    """Makes renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Puts a new folder, its files and its folders on disk, so that a rename can make it visible."""
    for entry in sorted(folder.iterdir()):
        sync_tree(entry) if entry.is_dir() else sync_file(entry)
    sync_directory(folder)
