"""The working directory: room, and whether its file system does what outputs that appear whole rest on."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ireasoner_cli.doctor.finding import Finding, fail, ok, warn
from stages.errors import why
from stages.models.estimate import GIB
from stages.shards.durable import sync_directory

LITTLE_ROOM = 20 * GIB  # the weights of 7B, a policy, and some shards
SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "fuse", "9p", "virtiofs", "weka")

# Tries to take a lock that this process holds; says whether it was refused.
TRY = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("refused")
"""


def findings(folder: Path) -> Iterator[Finding]:
    kind = file_system(folder)
    with contextlib.suppress(OSError):
        yield _room(folder, kind)
    try:
        with tempfile.TemporaryDirectory(prefix=".ireasoner-doctor-", dir=folder) as scratch:
            yield locks(Path(scratch), kind)
            yield renames(Path(scratch))
    except OSError as error:
        yield fail("folder", f"{folder} cannot be written to ({why(error)})", "work in a folder of your own")


def file_system(folder: Path) -> str:
    """The kind that `folder` lies on, by the longest of the mount points above it."""
    table, path = Path("/proc/mounts"), folder.resolve()
    rows = [line.split() for line in table.read_text().splitlines()] if table.is_file() else []
    above = [(point, kind) for _, point, kind, *_ in rows if path.is_relative_to(point.replace(r"\040", " "))]
    return max(above, key=lambda row: len(row[0]), default=("", "unknown"))[1]


def _room(folder: Path, kind: str) -> Finding:
    free = shutil.disk_usage(folder).free
    shared = ", shared" if kind.startswith(SHARED) else ""
    text = f"{free / GIB:.0f} GiB free here ({kind}{shared})"
    if free < LITTLE_ROOM:
        return warn("disk", text, "7B's weights take 16, each policy of its 1; small models do with less", free=free)
    return ok("disk", text, free=free, kind=kind)


def locks(scratch: Path, kind: str) -> Finding:
    """Whether a file that one process has locked is locked for another."""
    file = scratch / "lock"
    try:
        with file.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other = subprocess.run([sys.executable, "-I", "-c", TRY, str(file)], capture_output=True, text=True)
    except OSError as error:
        text = f"files cannot be locked on this file system, {kind} ({why(error)})"
        return fail("locks", text, "work on another, or have it mounted with locks (Lustre: -o flock)")
    if other.stdout.strip() == "refused":
        return ok("locks", "a file that one process has locked is locked for others")
    text = f"a lock is not seen by another process on this file system, {kind}"
    return fail("locks", text, "two commands could write the same output: work on another file system")


def renames(scratch: Path) -> Finding:
    """Whether a file takes another's place in one move, a folder a free place, and both can be put on disk."""
    try:
        (scratch / "old").write_text("old")
        (scratch / "new").write_text("new")
        os.replace(scratch / "new", scratch / "old")
        (scratch / "folder").mkdir()
        os.rename(scratch / "folder", scratch / "moved")
        sync_directory(scratch)
        moved = (scratch / "old").read_text() == "new" and (scratch / "moved").is_dir()
    except OSError as error:
        return fail("renames", f"files cannot be put in place ({why(error)})", "work on another file system")
    if not moved:
        return fail("renames", "a renamed file is not seen in its place", "work on another file system")
    return ok("renames", "files and folders appear whole")
