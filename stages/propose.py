"""`propose`: one question about each of the next images of the pool.

pool/ + policy ──▶ questions.parquet
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa

from stages import images, shards
from stages.contract import PROPOSER, TRAJECTORY, Metadata, group_id, trajectory_seed
from stages.errors import DataError, UsageError
from stages.images.pool import Pool, draw, open_pool
from stages.job import Job, Start
from stages.parameters import Call, recorded
from stages.parameters.propose import ProposeParams
from stages.parsing import parse_question
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.sampling import Engines, Request, open_sampler
from stages.sampling.rows import Asking, Row, sample_columns, with_samples


def propose(
    images_path: Path,
    params: ProposeParams,
    call: Call = Call(),
    progress: Progress = SILENT,
    engines: Engines = open_sampler,
) -> Result:
    """Writes the questions shard: the Proposer's row of each group.

    An image that cannot be read becomes a row with a reject_reason. Raises DataError when no image of the pool
    can be, and for a policy that does not fit; UsageError for paths that are not there; EngineError for the model.
    """
    start = Start.chosen(call)
    asking = Asking.settled(PROPOSER, start, params.sampling)
    pool = open_pool(images_path)
    job = Job(
        "propose",
        call,
        start,
        output=shards.output_path(call.out, "questions", [], call.shard),
        params={**recorded(params), **asking.recorded()},
        seed=call.seed,
        inputs=pool.inputs,
        total=call.at_most(params.groups),
    )
    if there := job.there(requests=len):
        if there.reused:
            _check_unchanged(job.output)
        return there

    order = draw(len(pool), call.seed, start.policy.ref.step, call.at_most(params.groups))
    _check_readable(pool, order, images_path)
    counts = {"groups": len(job.todo), "questions": 0, "unreadable_images": 0}
    load = partial(asking.open, engines, pool.most_images)
    with job.writing(TRAJECTORY, progress) as questions, questions.using(load) as sampler:
        proposals = _proposals(pool, order, questions.left, job.metadata, params.embed_images)
        for row, sample in with_samples(sampler, params.sampling.decoding, proposals):
            if sample:
                row |= sample_columns(sample)
                row["question"] = parse_question(sample.text)
                row["reject_reason"] = row["reject_reason"] or (
                    None if row["question"] else "the proposal has no question"
                )
            counts["questions"] += row["question"] is not None
            counts["unreadable_images"] += sample is None
            questions.write([row])
    return Result(job.output, summary=counts)


def _proposals(
    pool: Pool, order: list[int], indices: range, metadata: Metadata, embed_images: bool
) -> Iterator[tuple[Row, Request | None]]:
    """The Proposer's row of each group, still without a completion, and the request for one."""
    prompt = metadata.params["prompt"]
    for index, pictures in zip(indices, pool.read([order[index] for index in indices]), strict=True):
        hashes = [images.sha256(found.data) if found.data is not None else None for found in pictures]
        group = group_id(metadata.seed, metadata.policy.step + index + 1, hashes)
        row: Row = {
            "group_id": group,
            "group_index": index,
            "role": PROPOSER,
            "sample_index": 0,
            "images": [
                {"bytes": found.data if embed_images or found.path is None else None, "path": found.path}
                for found in pictures
            ],
            "images_sha256": hashes,
            "question": None,
            "prompt": prompt,
            "seed": trajectory_seed(group, PROPOSER, 0),
            "reject_reason": next((found.problem for found in pictures if found.problem), None),
        }
        request = None
        if row["reject_reason"] is None:
            try:
                request = Request(tuple(images.decode(found.data or b"") for found in pictures), prompt, row["seed"])
            except images.UnreadableImage as error:
                row["reject_reason"] = str(error)
        yield row, request


def _check_unchanged(questions: Path) -> None:
    """Raises UsageError when a picture is no longer the one a question of `questions` is about."""
    wanted = pa.schema([TRAJECTORY.field(name) for name in ("images", "images_sha256")])
    for batch in shards.read_batches(questions, wanted):
        for row in batch.to_pylist():
            for picture, digest in zip(row["images"], row["images_sha256"], strict=True):
                try:
                    if digest and picture["bytes"] is None:
                        images.read(picture, digest)
                except DataError as error:
                    raise UsageError(
                        f"{questions} exists, and its images have changed; use --force. {error}"
                    ) from error


def _check_readable(pool: Pool, order: list[int], pool_path: Path) -> None:
    """Raises DataError when no image of the pool can be read: there is nothing to propose on."""
    problem = None
    for pictures in chain(pool.read(order), pool.read(range(len(pool)))):
        for found in pictures:
            try:
                images.decode(found.data or b"")
            except images.UnreadableImage as error:
                problem = problem or f"{found.path or 'the first row'}: {found.problem or error}"
                break
        else:
            return
    raise DataError(f"{pool_path}: none of its {len(pool)} images can be read ({problem})")
