"""`propose`: one question about each of the next images of the pool.

pool/ + policy ──▶ questions.parquet
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL.Image import Image

from stages import images, puzzles, shards
from stages.contract import PROPOSER, TRAJECTORY, UNREADABLE, Metadata, Row, group_id, trajectory_seed
from stages.errors import DataError, MadeDifferently, UsageError
from stages.images.columns import Columns
from stages.images.dataset import Dataset
from stages.images.forms import PoolRow
from stages.images.pool import Order, Pool, open_pool
from stages.job import Job, Start
from stages.parameters import Call, recorded
from stages.parameters.propose import ProposeParams
from stages.parsing import parse_question
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.sampling import Engines, Request, Sample, Sampler, open_sampler
from stages.sampling.rows import Asking, sample_columns, with_samples

NO_QUESTION = "the proposal has no question"
NONE_THERE = "the row has no question"  # where they are the dataset's own


def propose(
    images_path: Path,
    params: ProposeParams,
    call: Call = Call(),
    progress: Progress = SILENT,
    engines: Engines = open_sampler,
) -> Result:
    """Writes the questions shard: the Proposer's row of each group. With `params.questions` the questions are those of
    the dataset, with `params.task` they are drawn, and nothing is sampled.

    What cannot be asked about becomes a row with a reject_reason. Raises DataError when nothing in the pool can be, and
    for a policy that does not fit; UsageError for paths and columns that are not there; EngineError for the model.
    """
    if params.target is not None and params.questions is None:
        raise UsageError("--target names the column with the answers to --questions, and goes with it")
    if params.task is not None and params.questions is not None:
        raise UsageError("--task draws the questions, and --questions takes them from a column; give one of them")
    puzzle = puzzles.load(params.task) if params.task else None
    pool = open_pool(images_path, Columns(params.image_column, params.questions, params.target))
    start = Start.chosen(call, PROPOSER)
    asking = Asking.settled(PROPOSER, start, params.sampling) if params.questions is None and puzzle is None else None
    step = start.policy.ref.step if params.step is None else params.step
    job = Job(
        "propose",
        call,
        start,
        output=shards.output_path(call.out, "questions", [], call.shard),
        params={**recorded(params), "step": step, **pool.recorded, **(asking.recorded() if asking else {})},
        seed=call.seed,
        inputs=pool.inputs,
        total=call.at_most(params.groups),
    )
    if isinstance(pool, Dataset) and job.output.resolve().is_relative_to(images_path.resolve()):
        raise UsageError(f"{job.output}: lies in the pool, which would grow by it; name another place with --out")
    groups = call.at_most(params.groups)
    order = Order(len(pool), call.seed, step, params.per_image)

    def requests(left: range) -> int:
        return sum(_problem(row, None) is None for row in pool.read([order[index] for index in left]))

    there = job.there(requests if asking else None)
    if there and there.reused:
        _check_unchanged(job.output)
        return there
    _check_usable(pool, [order[index] for index in range(groups)], images_path, params.questions)
    if there:
        return there
    counts = {"groups": len(job.todo), "questions": 0, "unreadable_images": 0, "refused": 0}
    counts |= {"targets": 0} if params.target or puzzle else {}

    def load() -> AbstractContextManager[Sampler | None]:
        return asking.open(engines, pool.most_images([order[index] for index in job.todo])) if asking else nullcontext()

    with job.writing(TRAJECTORY, progress) as questions, questions.using(load) as sampler:
        questions.made_on(sampler.device if sampler else {})
        for table in questions.taken_up("question", "target", "completion", "reject_reason"):
            _count(counts, table.to_pylist())
        rows = _found(pool, order, questions.left, job.metadata, params.per_image, puzzle)
        proposals = _proposals(zip(questions.left, rows, strict=True), job.metadata, params, asking is not None)
        for row, sample in with_samples(sampler, params.sampling.decoding, proposals):
            if sample:
                row |= sample_columns(sample)
            if isinstance(sample, Sample):
                row["question"] = parse_question(sample.text)
                row["reject_reason"] = row["reject_reason"] or (None if row["question"] else NO_QUESTION)
            _count(counts, [row])
            questions.write([row])
    return Result(job.output, summary=counts)


def _count(counts: dict[str, int], rows: Iterable[Row]) -> None:
    for row in rows:
        counts["questions"] += row["question"] is not None
        if "targets" in counts:
            counts["targets"] += row["target"] is not None
        reason = row["reject_reason"]
        if reason and reason != NONE_THERE and row.get("completion") is None:
            counts["unreadable_images" if reason.startswith(UNREADABLE) else "refused"] += 1


def _found(
    pool: Pool, order: Order, indices: range, metadata: Metadata, apart: int, draw: puzzles.Draw | None
) -> Iterator[PoolRow]:
    """What each group is about; with `draw` a puzzle on its picture and, where it needs another, on the first other one
    among those `apart` further on in the order."""
    rows = pool.read([order[index] for index in indices])
    if draw is None:
        yield from rows
        return
    for index, own in zip(indices, rows, strict=True):
        step = metadata.step + index + 1
        shown = own.images[0].data
        group = group_id(metadata.seed, step, [images.sha256(shown or b"")])
        puzzle = draw(random.Random(trajectory_seed(group, PROPOSER, 0)))
        other = own
        if 1 in puzzle.pictures:
            following = (next(pool.read([order[index + apart * further]])) for further in range(1, len(pool)))
            other = next((row for row in following if row.images[0].data not in (None, shown)), own)
            if other is own:
                raise DataError("the pool has one picture, and this --task needs another beside it")
        pictures = tuple((own, other)[which].images[0] for which in puzzle.pictures)
        yield PoolRow(pictures, puzzle.question, puzzle.target, puzzle.view)


def _proposals(
    proposed: Iterable[tuple[int, PoolRow]], metadata: Metadata, params: ProposeParams, asks: bool
) -> Iterator[tuple[Row, Request | None]]:
    """The Proposer's row of each group, by its index, with the request for a completion; without one where the question
    is there already, or cannot be asked for."""
    prompt: Any = metadata.params.get("prompt")
    for index, found in proposed:
        hashes = [images.sha256(image.data) if image.data is not None else None for image in found.images]
        group = group_id(metadata.seed, metadata.step + index + 1, hashes)
        row: Row = {
            "group_id": group,
            "group_index": index,
            "role": PROPOSER,
            "sample_index": 0,
            "images": [
                {"bytes": image.data if params.embed_images or image.path is None else None, "path": image.path}
                for image in found.images
            ],
            "images_sha256": hashes,
            "view": found.view,
            "question": None,
            "target": found.target,
            "prompt": prompt,
            "seed": trajectory_seed(group, PROPOSER, 0),
            "reject_reason": None,
        }
        try:
            pictures = _decode(found)
        except images.UnreadableImage as error:
            yield row | {"reject_reason": str(error)}, None
            continue
        if asks:
            yield row, Request(pictures, prompt, row["seed"])
        else:
            asked = found.question
            yield row | {"question": asked, "reject_reason": None if asked else NONE_THERE}, None


def _check_unchanged(questions: Path) -> None:
    """Raises MadeDifferently when a picture is no longer the one a question of `questions` is about."""
    wanted = pa.schema([TRAJECTORY.field(name) for name in ("images", "images_sha256")])
    for batch in shards.read_batches(questions, wanted):
        for row in batch.to_pylist():
            for picture, digest in zip(row["images"], row["images_sha256"], strict=True):
                try:
                    if digest and picture["bytes"] is None:
                        images.read(picture, digest)
                except DataError as error:
                    raise MadeDifferently(f"{questions} exists and is of other images ({error})") from error


def _check_usable(pool: Pool, order: list[int], path: Path, questions: str | None) -> None:
    """Raises DataError when there is nothing to propose on: no row of the pool has images that can be read and, where
    they are taken from it, a question."""
    problem = None
    for row in chain(pool.read(order), pool.read(range(len(pool)))):
        found = _problem(row, questions)
        if found is None:
            return
        problem = problem or found
    what = (
        "images can be read" if questions is None else f"rows has images that can be read and a text in {questions!r}"
    )
    raise DataError(f"{path}: none of its {len(pool)} {what} ({problem})")


def _problem(found: PoolRow, questions: str | None) -> str | None:
    where = found.images[0].path or "the first row"
    try:
        _decode(found)
    except images.UnreadableImage as error:
        return f"{where}: {error}"
    return f"{where}: {NONE_THERE}" if questions and not found.question else None


def _decode(found: PoolRow) -> tuple[Image, ...]:
    """Raises UnreadableImage, also for images that could not be read in the first place."""
    for image in found.images:
        if image.data is None:
            raise images.UnreadableImage(image.problem)
    return tuple(images.decode(image.data or b"") for image in found.images)
