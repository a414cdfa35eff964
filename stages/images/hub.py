"""A dataset with pictures on the Hugging Face hub."""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from stages.errors import DataError, EngineError
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
    could_be = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)) and not path.name.lower().endswith(FILE_ENDINGS)
    return bool(could_be) and not path.exists()


def fetch(name: str) -> Snapshot:
    """Downloads the dataset's Parquet files, those of the split `train` where it has one.

    Raises EngineError when it cannot be had, DataError when it holds no Parquet.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    for patterns in (TRAIN, ALL):
        try:
            folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise EngineError(
                f"{name}: neither a folder or file here nor a dataset to be had from the Hugging Face hub ({reason})"
            ) from error
        files = sorted(folder.rglob("*.parquet"))
        if found := [file for file in files if _matches(file.relative_to(folder), patterns)]:
            return Snapshot(found, folder.name)  # named by the resolved commit
    raise DataError(f"{name}: this dataset has no Parquet files; download it, and name its folder")


def _matches(file: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(file.as_posix(), pattern) for pattern in patterns)
