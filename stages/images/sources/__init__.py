"""Files that hold pictures in rows: Parquet, Arrow and JSON lines, behind one interface."""

from collections.abc import Callable
from pathlib import Path

from stages.images.sources.arrow import ArrowSource
from stages.images.sources.json_lines import JsonLinesSource
from stages.images.sources.parquet import ParquetSource
from stages.images.sources.source import Problem, Record, Source, holds_pictures, is_list

# By how a file's name ends; of a folder that holds several kinds, the first.
KINDS: tuple[tuple[tuple[str, ...], Callable[[Path], Source]], ...] = (
    ((".parquet",), ParquetSource),
    ((".arrow", ".feather", ".ipc"), ArrowSource),
    ((".jsonl", ".ndjson"), JsonLinesSource),
)
ENDINGS = tuple(ending for endings, _ in KINDS for ending in endings)


def is_parquet(file: Path) -> bool:
    """Whether it is taken for Parquet: what is not named as another kind is."""
    return _kind(file) is ParquetSource


def open_source(file: Path) -> Source:
    """Raises DataError for a file that is damaged, or not of the kind that its name says."""
    return _kind(file)(file)


def _kind(file: Path) -> Callable[[Path], Source]:
    name = file.name.lower()
    if name.endswith(".json"):  # of which a folder may hold others
        return JsonLinesSource
    return next((kind for endings, kind in KINDS if name.endswith(endings)), ParquetSource)


__all__ = ["ENDINGS", "KINDS", "Problem", "Record", "Source", "holds_pictures", "is_list", "is_parquet", "open_source"]
