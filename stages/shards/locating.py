"""Where a stage's shards lie: `--out` and `--shard`, inputs and sets of parts, what a run in progress has so far."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.contract import InputRef
from stages.errors import DataError, UsageError
from stages.shards.durable import partial_directory, parts_directory
from stages.shards.sealing import checked_sha256

OTHER_FORMATS = {".csv", ".tsv", ".json", ".jsonl", ".arrow", ".feather", ".pq", ".txt"}  # no directories
PART = re.compile(r"part-([1-9]\d*)-of-([1-9]\d*)\.parquet")


@dataclass(frozen=True)
class Part:
    """`--shard I/N`: the I-th, counted from 1, of N contiguous blocks."""

    index: int = 1
    count: int = 1

    @staticmethod
    def of(text: str | None) -> "Part | None":
        """Of `I/N`, 1 ≤ I ≤ N. Raises UsageError for anything else."""
        if text is None:
            return None
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text}: not I/N with I from 1 to N, such as 1/4")
        return Part(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def bounds(self, total: int) -> tuple[int, int]:
        """First and one-past-last of this block of `total` things."""
        return (self.index - 1) * total // self.count, self.index * total // self.count

    @property
    def file_name(self) -> str:
        return f"part-{self.index}-of-{self.count}.parquet"


def output_path(out: Path | None, default: str, inputs: Sequence[Path], shard: str | None = None) -> Path:
    """The file a stage writes: `--out`, or the stage's own name (`default`, without suffix) beside its input.

    Raises UsageError for a `shard` (I/N) of a single file, for a file of another format, and for an output that is the
    input.
    """
    part = Part.of(shard)
    if out is None:
        beside = inputs[0].parent if inputs else Path()
        as_directory = part is not None or (bool(inputs) and inputs[0].is_dir())
        out = beside / (default if as_directory else f"{default}.parquet")
    if any(path.exists() and out.resolve() == path.resolve() for path in inputs):
        raise UsageError(f"{out} is the input; name another --out")
    if out.suffix in OTHER_FORMATS:
        raise UsageError(f"--out {out}: what is written is Parquet; name a .parquet file, or a directory of parts")
    if out.suffix != ".parquet":
        if out.is_file():
            raise UsageError(f"--out {out}: a file; name a .parquet file, or a directory of parts")
        return out / (part or Part()).file_name
    if part is not None:
        raise UsageError(f"--shard writes parts into a directory, and --out {out} names a single file")
    return out


def input_files(paths: Sequence[Path]) -> list[Path]:
    """The Parquet files meant by files and directories; parts in their order, and all of them.

    Raises UsageError for a path that does not exist, DataError for an incomplete or mixed set of parts.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
            if not found:
                raise DataError(f"{path}: the directory holds no Parquet file")
            # Where there are parts, they are the directory's content; anything else only lies beside them.
            files += [file for file in found if PART.fullmatch(file.name)] or found
        elif path.exists():
            files.append(path)
        else:
            raise UsageError(f"{path}: no such file or directory")
    for directory in dict.fromkeys(file.parent for file in files):
        _check_parts(directory, [file.name for file in files if file.parent == directory])
    return sorted(files, key=_part_order) if all(PART.fullmatch(file.name) for file in files) else files


@dataclass(frozen=True)
class Found:
    """What there is of an output, finished or not. files: the finished ones; missing: how many parts of the set
    are not among them; unfinished: chunks of those that are being written, or were when their stage was killed."""

    files: list[Path]
    missing: int
    unfinished: list[Path]

    @property
    def readable(self) -> list[Path]:
        return [*self.files, *self.unfinished]


def find_output(path: Path) -> Found:
    """For looking only, at a run in progress: what a stage's input must be, `input_files` says.

    Raises UsageError when there is nothing at `path`, finished or not; DataError when it holds no rows yet.
    """
    if not path.exists() and parts_directory(path).is_dir():
        path = parts_directory(path)
    if path.is_dir():
        found = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
        files = sorted((file for file in found if PART.fullmatch(file.name)), key=_part_order) or found
        partials = sorted(path.glob(".*.parquet.partial"))
    else:
        files = [path] if path.exists() else []
        partials = [] if files else [partial for partial in [partial_directory(path)] if partial.is_dir()]
        if not files and not partials:
            raise UsageError(f"{path}: no such file or directory")
    unfinished = [chunk for partial in partials for chunk in sorted(partial.glob("chunk-*.parquet"))]
    if not files and not unfinished:
        raise DataError(f"{path}: no Parquet file here" + (", only one that has just been begun" if partials else ""))
    counts = [int(match[2]) for match in (PART.fullmatch(file.name) for file in files) if match]
    return Found(files, max(counts) - len(files) if counts else 0, unfinished)


def _part_order(file: Path) -> tuple[str, int]:
    match = PART.fullmatch(file.name)
    return str(file.parent), int(match[1]) if match else 0


def _check_parts(directory: Path, names: list[str]) -> None:
    parts = [(int(match[1]), int(match[2])) for match in map(PART.fullmatch, names) if match]
    counts = sorted({count for _, count in parts})
    if len(counts) > 1:
        raise DataError(f"{directory}: parts of {counts[0]} and of {counts[1]} are mixed; keep one set")
    there = {index for index, _ in parts}
    missing = next((index for index in range(1, counts[0] + 1) if index not in there), None) if parts else None
    if missing:
        raise DataError(f"{directory}: incomplete, part {missing} of {counts[0]} is missing; run that --shard first")


def parts_of_other_counts(output: Path) -> Iterator[tuple[Path, str]]:
    """Parts beside `output` that would make the set unreadable, with their counts."""
    own = PART.fullmatch(output.name)
    for other in output.parent.glob("part-*.parquet") if own else ():
        match = PART.fullmatch(other.name)
        if own and match and match[2] != own[2]:
            yield other, match[2]


def input_refs(files: Sequence[Path]) -> tuple[InputRef, ...]:
    """What an output records of its inputs. Raises DataError for a file that does not match its own checksum."""
    return tuple(InputRef(file.name, checked_sha256(file)) for file in files)
