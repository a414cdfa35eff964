"""`verify`: a chain of files, read again from its beginning.

Every file is checked against its own checksums, its schema, the contract's invariants, and what it records of its
inputs: of files and policies their SHA-256, of images theirs, of a model its fingerprint. Inputs are looked for around
the file that records them, in the folders named, among what was checked already and in the working directory; they are
checked first, so that what is reported is the first broken link. With `replay` each of the files named is also made
again from its lineage and compared.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stages import images, policy, shards
from stages.contract import CREDIT, METADATA_KEY, METRICS, PROPOSER, SCHEMAS, InputRef, Metadata, ModelRef, PolicyRef
from stages.errors import DataError, UsageError
from stages.images.pool import open_pool
from stages.images.sources import is_parquet, open_source
from stages.models.finding import find_model
from stages.progress import SILENT, Progress
from stages.shards.sealing import checked_sha256
from stages.verification.invariants import broken_promises
from stages.verification.replay import Lineage, replay


@dataclass(frozen=True)
class Verified:
    """A file, a directory of parts or a policy that was found right. `stage` is None for data that no stage wrote;
    `replayed` says how it came out when made again."""

    path: Path
    stage: str | None
    rows: int
    replayed: str | None = None


def verify(paths: Sequence[Path], again: bool = False, progress: Progress = SILENT) -> Iterator[Verified]:
    """Checks `paths` (files, directories of parts, policies, or folders of these) and all they were made from, and
    with `again` replays them. Yields what is right as it is found, inputs before outputs.

    Raises UsageError for a path that does not exist, DataError where there is nothing to check and at the first
    broken link, and whatever a stage that is replayed raises.
    """
    chain = _Chain(paths)
    for output in chain.named:
        yield from chain.check(output)
    for output in chain.named if again else ():
        lineage = chain.lineages.get(output)
        if lineage is not None:
            with progress.busy(f"making {output} again"), tempfile.TemporaryDirectory() as scratch:
                yield Verified(output, lineage.metadata.stage, 0, replay(lineage, Path(scratch)))


class _Chain:
    """The outputs that were named, what lies around them, and what has been checked already."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.named = list(dict.fromkeys(output for path in paths for output in _outputs(path)))
        if not self.named:
            raise DataError(f"{', '.join(map(str, paths))}: no Parquet file and no policy here; nothing to verify")
        self.lineages: dict[Path, Lineage] = {}
        self._checked: dict[Path, Path] = {}  # resolved, and as it was found
        self._hashes: dict[Path, str] = {}
        self._models: set[ModelRef] = set()

    def check(self, output: Path) -> Iterator[Verified]:
        if output.resolve() in self._checked:
            return
        self._checked[output.resolve()] = output
        if output.is_file() and not is_parquet(output):  # rows with images, of which a question's shard was made
            yield Verified(output, None, len(open_source(output)))
            return
        is_policy = _is_policy(output)
        metadata = policy.read_state(output).lineage if is_policy else self._metadata(output)
        if metadata is None:
            yield Verified(output, None, sum(_read_through(file) for file in shards.input_files([output])))
            return
        sources = [source for ref in metadata.inputs if (source := self._find_input(output, metadata, ref))]
        start = self._find_policy(output, metadata.policy)
        files = [_whole_output(source) for source in sources if source.is_file()]  # not a pool of images
        for source in dict.fromkeys([*files, *([start] if start else [])]):
            yield from self.check(source)
        self._check_model(output, metadata.model)
        self.lineages[output] = Lineage(output, metadata, tuple(sources), start)
        if is_policy:
            yield Verified(output, metadata.stage, _check_policy(output))
        elif metadata.stage == "eval":
            yield Verified(output, metadata.stage, _check_eval(output))
        else:
            yield Verified(output, metadata.stage, _check_trajectories(output, metadata))

    def _metadata(self, output: Path) -> Metadata | None:
        files = shards.input_files([output])
        for file in files:
            self._sha256(file)
        if METADATA_KEY not in (shards.schema_of(files[0]).metadata or {}):
            return None
        metadata = shards.read_metadata(files[0])
        if metadata.stage not in SCHEMAS:
            raise DataError(f"{files[0]}: says that `{metadata.stage}` wrote it, which writes no shards")
        return metadata

    def _sha256(self, file: Path) -> str:
        if file not in self._hashes:
            self._hashes[file] = checked_sha256(file)
        return self._hashes[file]

    # ---------------------------------------------------------------------------------------- the links

    def _places(self, output: Path) -> list[Path]:
        """Folders in which an input of `output` may lie: its own, the one above, those named, and their folders, and
        the working directory."""
        above = output.parent.parent if output.parent != output.parent.parent else output.parent / ".."
        near = [output.parent, above, *(path for path in self._paths if path.is_dir())]
        return list(dict.fromkeys([*(place for folder in near for place in (folder, *_folders(folder))), Path()]))

    def _find_input(self, output: Path, metadata: Metadata, ref: InputRef) -> Path | None:
        """The file, or the pool of images, that `ref` records."""
        if Path(ref.name).name != ref.name:
            raise DataError(f"{output}: records an input called {ref.name!r}, which is no file name")
        if metadata.stage == "propose" and (pool := self._find_pool(output, ref)):
            return pool
        found = None
        # The nearest first: where none is right, it is the one that was changed.
        files = [*(place / ref.name for place in self._places(output)), *self.named, *self._checked.values()]
        for file in files:
            if file.name == ref.name and file.is_file():
                if self._sha256(file) == ref.sha256:
                    return file
                found = found or file
        if metadata.stage == "propose":
            return None  # each image is checked by itself
        if found:
            raise DataError(
                f"{output}: was made from {ref.name} with SHA-256 {ref.sha256[:12]}…, and {found} has "
                f"{self._sha256(found)[:12]}…"
            )
        raise DataError(
            f"{output}: its input {ref.name} (SHA-256 {ref.sha256[:12]}…) is not beside it; name the folder that "
            "holds it, too"
        )

    def _find_pool(self, output: Path, ref: InputRef) -> Path | None:
        """The folder of images a question shard was made from, where its rows say it lies or among those named."""
        rows = shards.Rows([output], pa.schema([SCHEMAS["propose"].field("images")]))
        path = Path(next((row["images"][0]["path"] for row in rows if row["images"]), None) or "")
        above = [parent for parent in path.parents if parent.resolve().name == ref.name]
        for folder in [*above, *(named for named in self._paths if named.is_dir())]:
            try:
                if folder.is_dir() and ref in open_pool(folder).inputs:
                    return folder
            except DataError:
                continue  # a named folder without images
        return None

    def _find_policy(self, output: Path, recorded: PolicyRef) -> Path | None:
        if recorded.sha256 is None:
            return None
        places = self._places(output)  # a policy lies among an iteration's files, which is a folder further down
        inner = (folder for place in places for folder in _folders(place))
        for folder in dict.fromkeys([*self.named, *self._checked.values(), *places, *inner]):
            with suppress(DataError):  # one that nothing was made from may be torn
                if folder != output and _is_policy(folder) and policy.fingerprint(folder) == recorded.sha256:
                    return folder
        raise DataError(
            f"{output}: was made with the policy at step {recorded.step} (SHA-256 {recorded.sha256[:12]}…), which is "
            "not beside it; name its folder, too"
        )

    def _check_model(self, output: Path, model: ModelRef) -> None:
        """Of a model that lies here; one from the hub is not fetched for this."""
        if model.sha256 is None or model in self._models or not Path(model.name).is_dir():
            return
        self._models.add(model)
        try:
            find_model(model.name, expected_sha256=model.sha256)
        except DataError as error:
            raise DataError(f"{output}: {error}") from error


# ------------------------------------------------------------------------------------------- what is there


def _is_policy(path: Path) -> bool:
    return (path / policy.STATE_FILE).is_file()


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _has_parts(path: Path) -> bool:
    return path.is_dir() and any(shards.PART.fullmatch(entry.name) for entry in path.iterdir())


def _whole_output(file: Path) -> Path:
    """The directory of a part file, which stands and falls as a set; any other path as it is."""
    return file.parent if shards.PART.fullmatch(file.name) else file


def _outputs(path: Path) -> list[Path]:
    """The policies, directories of parts and Parquet files in `path`, or `path` itself."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    if path.is_file():
        return [_whole_output(path)]
    if _is_policy(path) or _has_parts(path):
        return [path]
    files = sorted(file for file in path.glob("*.parquet") if file.is_file() and not file.name.startswith("."))
    return files + [output for folder in _folders(path) for output in _outputs(folder)]


# ------------------------------------------------------------------------------------------ what it holds


def _read_through(file: Path) -> int:
    return sum(batch.num_rows for batch in shards.read_batches(file, shards.schema_of(file).remove_metadata()))


def _check_trajectories(output: Path, metadata: Metadata) -> int:
    """Reads every column of every row; returns how many rows there are."""
    count = 0
    there = shards.schema_of(shards.input_files([output])[0]).names
    credit = CREDIT if metadata.stage == "score" and set(CREDIT.names) <= set(there) else ()
    table = shards.Shards([output], metadata.stage, pa.schema([*SCHEMAS[metadata.stage], *credit]))
    for group in table.groups():
        count += len(group)
        for problem in broken_promises(group, metadata):
            raise DataError(f"{output}: group {group[0]['group_id']}: {problem}")
        for row in group:
            for picture, digest in zip(row["images"] or (), row["images_sha256"] or (), strict=False):
                # The pictures of a group are the same on all its rows; where each holds them, each may be damaged.
                try:
                    if digest and (row["role"] == PROPOSER or (picture or {}).get("bytes")):
                        images.read(picture or {}, digest)
                except DataError as error:
                    raise DataError(f"{output}: group {row['group_id']}: {error}") from error
    return count


def _check_eval(output: Path) -> int:
    count = 0
    for row in shards.Rows([output], SCHEMAS["eval"]):
        count += 1
        if row["score"] is not None and not 0.0 <= row["score"] <= 1.0:
            raise DataError(f"{output}: row {row['id']}: its score is {row['score']}")
    return count


def _check_policy(folder: Path) -> int:
    """Everything in a policy directory; returns how many optimizer steps its metrics hold."""
    state = policy.read_state(folder)
    if not policy.is_pruned(folder):
        policy.check_whole(folder, state)
    metrics = folder / policy.METRICS_FILE
    checked_sha256(metrics)
    steps = shards.read_table(metrics, METRICS)["step"].to_pylist()
    if any(not 0 < step <= state.step for step in steps):
        raise DataError(f"{metrics}: has a step that is not in the update")
    return len(steps)
