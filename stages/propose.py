"""`propose`: one question about each of the next images of the pool.

pool/ + policy ──▶ questions.parquet
"""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pyarrow as pa

from stages import images, shards
from stages.contract import PROPOSER, TRAJECTORY, Metadata, ModelRef, group_id, trajectory_seed
from stages.errors import DataError, UsageError
from stages.images.pool import Pool, draw, open_pool
from stages.models.finding import DEFAULT_MODEL, locate_model
from stages.parsing import parse_question
from stages.policy import open_policy
from stages.progress import SILENT, Progress
from stages.result import Result
from stages.sampling import Engines, Request, open_sampler
from stages.sampling.rows import Row, SamplingSettings, sample_columns, with_samples


def propose(
    pool_path: Path,
    settings: SamplingSettings,
    groups: int = 64,
    seed: int = 0,
    embed_images: bool = False,
    policy: Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    limit: int | None = None,
    part: shards.Part | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    engines: Engines = open_sampler,
    dry_run: bool = False,
) -> Result:
    """Writes the questions shard: the Proposer's row of each group. A `dry_run` only says what would be done.

    An image that cannot be read becomes a row with a reject_reason. Raises DataError when no image of the pool
    can be, and for a policy that does not fit; UsageError for paths that are not there; EngineError for the model.
    """
    start = open_policy(policy)
    checkpoint = locate_model(model, start.state.model if start.state else ModelRef(DEFAULT_MODEL))
    pool = open_pool(pool_path)
    params = settings.resolve(PROPOSER, checkpoint)
    output = shards.output_path(out, "questions", [], part)
    metadata = Metadata(
        stage="propose",
        params={**asdict(params), "groups": groups, "limit": limit, "embed_images": embed_images},
        seed=seed,
        inputs=pool.inputs,
        model=checkpoint.ref,
        policy=start.ref,
    )
    if shards.is_done(output, metadata, force, tidy=not dry_run):
        _check_unchanged(output)
        return Result(output, reused=True)

    order = draw(len(pool), seed, start.ref.step, min(groups, limit or groups))
    _check_readable(pool, order, pool_path)
    first, last = (part or shards.Part()).bounds(len(order))
    if dry_run:
        done = min(shards.left_over(output, metadata, force), last - first)
        summary = shards.plan(output, metadata, "groups", last - first, done)
        return Result(output, summary={**summary, "requests": last - first - done})
    counts = {"groups": last - first, "questions": 0, "unreadable_images": 0}
    with shards.Output(output, TRAJECTORY, metadata, force, progress) as questions:
        with progress.busy("loading the model"):
            sampler = settings.open(checkpoint, start.adapter(PROPOSER), engines)
        resumed = min(first + questions.done, last)
        proposals = _proposals(pool, order, range(resumed, last), metadata, embed_images)
        with progress.track("propose", last - first, "groups") as advance:
            advance(resumed - first)
            for row, sample in with_samples(sampler, settings.decoding, proposals):
                if sample:
                    row |= sample_columns(sample)
                    row["question"] = parse_question(sample.text)
                    row["reject_reason"] = row["reject_reason"] or (
                        None if row["question"] else "the proposal has no question"
                    )
                counts["questions"] += row["question"] is not None
                counts["unreadable_images"] += sample is None
                questions.write([row])
                advance(1)
    return Result(output, summary=counts)


def _proposals(
    pool: Pool, order: list[int], indices: range, metadata: Metadata, embed_images: bool
) -> Iterator[tuple[Row, Request | None]]:
    """The Proposer's row of each group, still without a completion, and the request for one."""
    prompt = metadata.params["prompt"]
    for index, found in zip(indices, pool.read([order[index] for index in indices]), strict=True):
        image_sha256 = images.sha256(found.data) if found.data is not None else None
        group = group_id(metadata.seed, metadata.policy.step + index + 1, image_sha256)
        embedded = found.data if embed_images or found.path is None else None
        row: Row = {
            "group_id": group,
            "group_index": index,
            "role": PROPOSER,
            "sample_index": 0,
            "image": {"bytes": embedded, "path": found.path},
            "image_sha256": image_sha256,
            "question": None,
            "prompt": prompt,
            "seed": trajectory_seed(group, PROPOSER, 0),
            "reject_reason": found.problem,
        }
        request = None
        if found.data is not None:
            try:
                request = Request((images.decode(found.data),), prompt, row["seed"])
            except images.UnreadableImage as error:
                row["reject_reason"] = str(error)
        yield row, request


def _check_unchanged(questions: Path) -> None:
    """Raises UsageError when a picture is no longer the one a question of `questions` is about."""
    wanted = pa.schema([TRAJECTORY.field(name) for name in ("image", "image_sha256")])
    for batch in shards.read_batches(questions, wanted):
        for row in batch.to_pylist():
            if row["image_sha256"] and row["image"]["bytes"] is None:
                try:
                    images.read(row["image"], row["image_sha256"])
                except DataError as error:
                    raise UsageError(
                        f"{questions} exists, and its images have changed; use --force. {error}"
                    ) from error


def _check_readable(pool: Pool, order: list[int], pool_path: Path) -> None:
    """Raises DataError when no image of the pool can be read: there is nothing to propose on."""
    problem = None
    for found in chain(pool.read(order), pool.read(range(len(pool)))):
        try:
            images.decode(found.data or b"")
            return
        except images.UnreadableImage as error:
            problem = problem or f"{found.path or 'the first row'}: {found.problem or error}"
    raise DataError(f"{pool_path}: none of its {len(pool)} images can be read ({problem})")
