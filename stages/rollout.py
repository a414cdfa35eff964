"""`rollout`: N reasoned answers to each question.

questions.parquet + policy ──▶ rollouts.parquet
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from stages import images, shards
from stages.ahead import ahead
from stages.contract import SOLVER, TRAJECTORY, Metadata, trajectory_seed
from stages.models.finding import locate_model
from stages.policy import check_model, recorded_policy
from stages.progress import SILENT, Progress
from stages.prompts import with_question
from stages.result import Result
from stages.sampling import Engines, Request, open_sampler
from stages.sampling.rows import Row, SamplingSettings, sample_columns, with_samples

READ_AHEAD = 64  # trajectories whose images are decoded while others are sampled


def rollout(
    inputs: Sequence[Path],
    settings: SamplingSettings,
    samples: int = 5,
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
    """Writes the rollouts shard: each group's proposer row as it was, then its Solver rows. A `dry_run` only says
    what would be done.

    A group without a question gets none. Raises DataError for shards, images or a policy that do not fit,
    UsageError for paths that are not there, EngineError for the model.
    """
    questions = shards.Shards(inputs, "propose", TRAJECTORY)
    recorded = questions.metadata
    start = recorded_policy(policy, recorded.policy, questions.files[0])
    checkpoint = locate_model(model, recorded.model)
    check_model(start, checkpoint.ref)
    params = settings.resolve(SOLVER, checkpoint)
    output = shards.output_path(out, "rollouts", inputs, part)
    metadata = Metadata(
        stage="rollout",
        params={**asdict(params), "samples": samples, "limit": limit, "propose": recorded.params},
        seed=recorded.seed,
        inputs=questions.inputs,
        model=checkpoint.ref,
        policy=start.ref,
    )
    if shards.is_done(output, metadata, force, tidy=not dry_run):
        return Result(output, reused=True)

    total = min(questions.group_count, limit or questions.group_count)
    first, last = (part or shards.Part()).bounds(total)
    if dry_run:
        done = min(shards.left_over(output, metadata, force), last - first)
        summary = shards.plan(output, metadata, "groups", last - first, done)
        asked = sum(bool(proposal["question"]) for proposal, *_ in questions.groups(first + done, last))
        return Result(output, summary={**summary, "requests": asked * samples})
    counts = {"groups": last - first, "rollouts": 0, "truncated": 0}
    with shards.Output(output, TRAJECTORY, metadata, force, progress) as rollouts:
        with progress.busy("loading the model"):
            sampler = settings.open(checkpoint, start.adapter(SOLVER), engines)
        resumed = min(first + rollouts.done, last)
        rows = with_samples(
            sampler,
            settings.decoding,
            ahead(_trajectories(questions.groups(resumed, last), params.prompt, samples), depth=READ_AHEAD),
        )
        with progress.track("rollout", last - first, "groups") as advance:
            advance(resumed - first)
            for _, group in groupby(rows, key=lambda pair: pair[0]["group_id"]):
                complete = [row | sample_columns(sample) if sample else row for row, sample in group]
                counts["rollouts"] += len(complete) - 1
                counts["truncated"] += sum(row["finish_reason"] == "length" for row in complete[1:])
                rollouts.write(complete)
                advance(1)
    return Result(output, summary=counts)


def _trajectories(groups: Iterable[list[Row]], prompt: str, samples: int) -> Iterator[tuple[Row, Request | None]]:
    """The proposer's row of each group, then its Solver rows, still without completions, with their requests."""
    for proposal, *_ in groups:
        if not proposal["question"]:
            yield proposal, None
            continue
        data = images.read(proposal["image"] or {}, proposal["image_sha256"])
        try:
            picture = (images.decode(data),)
        except images.UnreadableImage as error:  # a question brought from elsewhere
            yield proposal | {"reject_reason": str(error)}, None
            continue
        yield proposal, None
        shared = {name: proposal[name] for name in ("group_id", "group_index", "image", "image_sha256", "question")}
        text = with_question(prompt, proposal["question"])
        for index in range(samples):
            seed = trajectory_seed(proposal["group_id"], SOLVER, index)
            row: Row = {**shared, "role": SOLVER, "sample_index": index, "prompt": text, "seed": seed}
            yield row, Request(picture, text, seed)
