"""The pool of unlabelled images, and the order in which its images are proposed on."""

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from stages import shards
from stages.contract import IMAGE, UNREADABLE, InputRef
from stages.errors import DataError, UsageError, why
from stages.images.reading import SUFFIXES, read_file


@dataclass(frozen=True)
class PoolImage:
    """One image of the pool: its path as reached from the working directory, or None when it is only a row of
    a dataset; its encoded bytes, or None when the file cannot be read, with the reason."""

    path: str | None
    data: bytes | None
    problem: str | None = None


class Pool(Protocol):
    """Images in sorted order, one or several at each position."""

    inputs: tuple[InputRef, ...]
    most_images: int  # at one position

    def __len__(self) -> int: ...

    def read(self, positions: Sequence[int]) -> Iterator[tuple[PoolImage, ...]]:
        """The images at `positions`, in that order."""
        ...


def open_pool(path: Path) -> Pool:
    """A folder tree of images, or a Parquet file or folder of Parquet files with an image column.

    Raises UsageError when there is no such path or it is a single image, DataError when no image is found.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    if path.is_dir():
        names = sorted(
            os.path.relpath(os.path.join(folder, name), path)
            for folder, _, files in os.walk(path)
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        )
        if names:
            return _FolderPool(path, names)
        if not any(path.rglob("*.parquet")):
            raise DataError(f"{path}: no image in this folder (looked for {', '.join(SUFFIXES)}, and Parquet files)")
    elif path.name.lower().endswith(SUFFIXES):
        raise UsageError(f"{path}: a single image; name the folder that holds the images")
    return _ParquetPool(path)


class _FolderPool:
    most_images = 1

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
        # Names and sizes tell one pool from another without reading every image; each row records its image's hash.
        listing = "\n".join(f"{name}\0{_size(file)}" for name, file in zip(names, self._paths, strict=True))
        digest = hashlib.sha256(os.fsencode(listing)).hexdigest()
        self.inputs: tuple[InputRef, ...] = (InputRef(folder.resolve().name, digest),)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, positions: Sequence[int]) -> Iterator[tuple[PoolImage, ...]]:
        for position in positions:
            path = self._paths[position]
            # A name that is not valid Unicode cannot be stored; the row says so instead of the run failing.
            shown = os.fsencode(path).decode("utf-8", "replace")
            try:
                if shown != path:
                    raise ValueError("its name is not valid UTF-8")
                found = PoolImage(shown, read_file(Path(path)))
            except (OSError, ValueError) as error:
                found = PoolImage(shown, None, f"{UNREADABLE}: {why(error)}")
            yield (found,)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


class _ParquetPool:
    WINDOW = 64  # images in memory at a time

    def __init__(self, path: Path) -> None:
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        self._files = [(file, shards.row_count(file)) for file in files]
        self._column = _image_column(files[0])
        self.inputs = shards.input_refs(files)
        self.most_images = shards.most_in_a_list(files, self._column) if pa.types.is_list(self._column.type) else 1
        if not len(self):
            raise DataError(f"{path}: the dataset has no rows")

    def __len__(self) -> int:
        return sum(rows for _, rows in self._files)

    def read(self, positions: Sequence[int]) -> Iterator[tuple[PoolImage, ...]]:
        for start in range(0, len(positions), self.WINDOW):
            window = positions[start : start + self.WINDOW]
            found = self._find(set(window))
            for position in window:
                value = found[position]
                pictures = value if isinstance(value, list) else [value]
                yield tuple(_row_image((picture or {}).get("bytes")) for picture in pictures or [None])

    def _find(self, wanted: set[int]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        first = 0
        for file, rows in self._files:
            inside = {position - first for position in wanted if first <= position < first + rows}
            if inside:
                found |= {first + row: image for row, image in shards.read_rows(file, self._column, inside)}
            first += rows
        return found


def _row_image(data: bytes | None) -> PoolImage:
    return PoolImage(None, data, None if data is not None else f"{UNREADABLE}: the row holds no bytes")


def _image_column(file: Path) -> pa.Field:
    for column in shards.schema_of(file):
        kind = column.type
        if pa.types.is_list(kind) and _is_image(kind.value_type, column.name == "images"):
            return pa.field(column.name, pa.list_(IMAGE))
        if _is_image(kind, column.name == "image"):
            return pa.field(column.name, IMAGE)
    raise DataError(f"{file}: no image column (a struct of bytes and path, as Hugging Face datasets writes it)")


def _is_image(kind: pa.DataType, named: bool) -> bool:
    """Whether it is what Hugging Face datasets makes of pictures, or, in a column that is `named` so, bytes."""
    names = {kind.field(i).name for i in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    return {"bytes", "path"} <= names or (named and shards.is_bytes(kind))


def draw(pool_size: int, seed: int, policy_step: int, groups: int) -> list[int]:
    """Positions of the images of one iteration's groups: the pool shuffled by the seed, taken from the policy's
    step onwards, round and round."""
    order = list(range(pool_size))
    random.Random(seed).shuffle(order)
    return [order[(policy_step + index) % pool_size] for index in range(groups)]
