"""The pool of unlabelled images, and the order in which its images are proposed on."""

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.contract import UNREADABLE, InputRef
from stages.errors import DataError, UsageError, why
from stages.images import hub
from stages.images.columns import Columns
from stages.images.dataset import Dataset
from stages.images.folders import files_below
from stages.images.forms import PoolImage, PoolRow
from stages.images.reading import SUFFIXES, read_file
from stages.images.sources import ENDINGS, KINDS

IMAGES_ALONE = Columns()


class Pool(Protocol):
    """Images in a fixed order, one or several at each position. `recorded` is what a shard records of where they are
    from, beside `inputs`."""

    inputs: tuple[InputRef, ...]
    recorded: dict[str, Any]

    def __len__(self) -> int: ...

    def most_images(self, positions: Sequence[int]) -> int:
        """How many there are at the fullest of `positions`, at least 1."""
        ...

    def read(self, positions: Sequence[int]) -> Iterator[PoolRow]:
        """What stands at `positions`, in that order."""
        ...


def open_pool(path: Path, wanted: Columns = IMAGES_ALONE) -> Pool:
    """A folder tree of images; a file of rows with images, or a folder of such files; or a dataset on the hub.

    Of a folder that holds images and files of rows, the images are meant, unless columns are `wanted`. Raises
    UsageError when there is no such path, it is a single image or lacks a column; DataError when no image is found, or
    several columns could be meant; EngineError when the hub cannot be reached.
    """
    if hub.is_hub_name(path):
        found = hub.fetch(str(path))
        origin = {"pool": {"name": str(path), "revision": found.revision}}
        return Dataset(found.files, wanted, follow=False, recorded=origin)
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    if not path.is_dir():
        if path.name.lower().endswith(SUFFIXES):
            raise UsageError(f"{path}: a single image; name the folder that holds the images")
        return Dataset([path], wanted)
    names = sorted(files_below(path))
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    if images and not wanted:
        return _Folder(path, images)
    for endings, _ in KINDS:
        if rows := [path / name for name in names if name.lower().endswith(endings)]:
            return Dataset(sorted(rows), wanted)
    if images:
        raise UsageError(f"{path}: a folder of images has no columns; name a file of rows that names its images")
    raise DataError(f"{path}: no image in this folder (looked for {', '.join(SUFFIXES)}, and {', '.join(ENDINGS)})")


class _Folder:
    """Images that are files of a folder tree."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
        # Names and sizes tell one pool from another without reading every image; each row records its image's hash.
        listing = "\n".join(f"{name}\0{_size(file)}" for name, file in zip(names, self._paths, strict=True))
        digest = hashlib.sha256(os.fsencode(listing)).hexdigest()
        self.inputs: tuple[InputRef, ...] = (InputRef(folder.resolve().name, digest),)
        self.recorded: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def most_images(self, positions: Sequence[int]) -> int:
        return 1

    def read(self, positions: Sequence[int]) -> Iterator[PoolRow]:
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
            yield PoolRow((found,))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


class Order:
    """Positions of the images of one iteration's groups, by index, `per_image` consecutive ones of each: the pool
    shuffled by the seed, taken from training step `step` onwards, round and round."""

    def __init__(self, pool_size: int, seed: int, step: int, per_image: int = 1) -> None:
        self._order = list(range(pool_size))
        random.Random(seed).shuffle(self._order)
        self._first = -(-step // per_image)  # as many images as the steps so far have had
        self._per_image = per_image

    def __getitem__(self, index: int) -> int:
        return self._order[(self._first + index // self._per_image) % len(self._order)]
