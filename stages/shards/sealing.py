"""A checksum over a whole Parquet file, inside the file.

Parquet's own page checksums leave out the footer and the page headers, where one flipped bit can change a
parameter, a column's name or how many values there are. So the files written here carry, between their last page and
their footer, the SHA-256 of everything else. Readers find pages and footer by their offsets and never look there; a
file that another tool writes anew simply has no seal. It guards against accidents: whoever forges a file can seal it.
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from stages.errors import DataError, why

MAGIC = b"PAR1"
# Before and after the digest, so that no single flip can pass a sealed file off as one without a seal.
MARK = b"IREASONR"
SEAL_BYTES = len(MARK) + hashlib.sha256().digest_size + len(MARK)
BLOCK = 1 << 20


def seal(path: Path) -> None:
    """Adds the seal to a finished Parquet file that has none. Raises OSError as writing does."""
    with path.open("r+b") as file:
        footer = _footer_start(file)
        if footer is None:
            raise ValueError(f"{path} is no Parquet file")
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(footer)
        rest = file.read()
        file.seek(footer)
        file.write(MARK + digest + MARK + rest)


def checked_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, whatever kind of file it is.

    Raises DataError when the file is sealed and is not what was sealed, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            footer = _footer_start(file)
            before_seal = max((footer or 0) - SEAL_BYTES, 0)
            file.seek(before_seal)
            seal = file.read(SEAL_BYTES)
            file.seek(0)
            if MARK not in (seal[: len(MARK)], seal[-len(MARK) :]):
                return hashlib.file_digest(file, "sha256").hexdigest()
            whole = hashlib.sha256()
            for start in range(0, before_seal, BLOCK):
                whole.update(file.read(min(BLOCK, before_seal - start)))
            without_seal = whole.copy()
            whole.update(file.read(SEAL_BYTES))
            while block := file.read(BLOCK):
                whole.update(block)
                without_seal.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({why(error)})") from error
    if seal != MARK + without_seal.digest() + MARK:
        raise DataError(f"{path}: damaged, its contents do not match its checksum; make it again, or restore a copy")
    return whole.hexdigest()


def _footer_start(file: BinaryIO) -> int | None:
    """Where the footer of a Parquet file begins; None for what does not end like one. Leaves the file at 0."""
    size = file.seek(0, os.SEEK_END)
    start = None
    if size >= 3 * len(MAGIC):
        file.seek(size - 8)
        tail = file.read(8)
        footer = size - 8 - int.from_bytes(tail[:4], "little")
        if tail[4:] == MAGIC and footer >= len(MAGIC):
            start = footer
    file.seek(0)
    return start
