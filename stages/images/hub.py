"""A dataset with pictures on the Hugging Face hub."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from stages import hub
from stages.errors import DataError
from stages.images.reading import SUFFIXES
from stages.images.sources import ENDINGS

FILE_ENDINGS = (*ENDINGS, *SUFFIXES, ".json")

# Of a dataset that has splits the one to train on; what is to be tested on later must not be in the pool.
TRAIN = ("train.parquet", "train-*.parquet", "*/train.parquet", "*/train-*.parquet", "*/train/*.parquet")
ALL = ("*.parquet",)


@dataclass(frozen=True)
class Snapshot:
    """Its Parquet files here, in order, and the commit that they are of."""

    files: list[Path]
    revision: str


def is_hub_name(path: Path) -> bool:
    """Whether `path` is nothing here, and could be OWNER/NAME on the hub."""
    return hub.is_name(path, FILE_ENDINGS)


def fetch(name: str) -> Snapshot:
    """Downloads the dataset's Parquet files, those of the split `train` where it has one.

    Raises EngineError when it cannot be had, DataError when it holds no Parquet.
    """
    for patterns in (TRAIN, ALL):
        folder = hub.fetch(name, patterns, dataset=True, here="a folder or file")
        files = sorted(folder.rglob("*.parquet"))
        if found := [file for file in files if _matches(file.relative_to(folder), patterns)]:
            return Snapshot(found, folder.name)
    raise DataError(f"{name}: this dataset has no Parquet files; download it, and name its folder")


def _matches(file: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(file.as_posix(), pattern) for pattern in patterns)
