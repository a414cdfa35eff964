"""`rollout`: N reasoned answers to each question.

questions.parquet + policy ──▶ rollouts.parquet
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from PIL.Image import Image

from stages import images, shards
from stages.ahead import ahead
from stages.contract import ANSWER, SOLVER, TRAJECTORY, UNREADABLE, trajectory_seed
from stages.errors import DataError
from stages.job import Job, Start
from stages.parameters import Call, recorded
from stages.parameters.rollout import RolloutParams
from stages.progress import SILENT, Progress
from stages.prompts import with_question
from stages.result import Result
from stages.sampling import Engines, Refused, Request, open_sampler
from stages.sampling.rows import Asking, Row, sample_columns, with_samples

SHARED = ("group_id", "group_index", "images", "images_sha256", "question")  # by the rows of a group
READ_AHEAD = 64  # trajectories whose images are decoded while others are sampled


def rollout(
    inputs: Sequence[Path],
    params: RolloutParams,
    call: Call = Call(),
    progress: Progress = SILENT,
    engines: Engines = open_sampler,
) -> Result:
    """Writes the rollouts shard: each group's proposer row as it was, then its Solver rows.

    A group without a question gets none, nor one whose images cannot be read or that the model cannot take: its row
    says why. Raises DataError for shards or a policy that do not fit, and when the images of no group can be read;
    UsageError for paths that are not there, EngineError for the model.
    """
    questions = shards.Shards(inputs, "propose", TRAJECTORY)
    start = Start.recorded(call, questions, SOLVER)
    asking = Asking.settled(SOLVER, start, params.sampling)
    job = Job(
        "rollout",
        call,
        start,
        output=shards.output_path(call.out, "rollouts", inputs, call.shard),
        params={**recorded(params), **asking.recorded(), "propose": questions.metadata.params},
        seed=questions.metadata.seed,
        inputs=questions.inputs,
        total=call.at_most(questions.group_count),
    )

    def requests(left: range) -> int:
        return params.samples * sum(bool(proposal["question"]) for proposal, *_ in questions.groups(left))

    if there := job.there(requests):
        return there

    _check_readable(questions)
    counts = {"groups": len(job.todo), "rollouts": 0, "truncated": 0, "unreadable_images": 0, "refused": 0}
    load = partial(asking.open, engines, questions.most_images())
    with job.writing(TRAJECTORY, progress) as rollouts, rollouts.using(load) as sampler:
        for table in rollouts.taken_up("role", "question", "finish_reason", "reject_reason"):
            _count(counts, table.to_pylist())
        trajectories = _trajectories(questions.groups(rollouts.left), asking.prompt, params.samples)
        rows = with_samples(sampler, params.sampling.decoding, ahead(trajectories, depth=READ_AHEAD))
        for _, group in groupby(rows, key=lambda pair: pair[0]["group_id"]):
            complete, refused = [], None
            for row, sample in group:
                complete.append(row | sample_columns(sample) if sample else row)
                refused = sample if isinstance(sample, Refused) else refused
            if refused:  # one prompt: what holds for one of its samples holds for all
                complete = [complete[0] | {"reject_reason": refused.reason}]
            _count(counts, complete)
            rollouts.write(complete)
    return Result(job.output, summary=counts)


def _count(counts: dict[str, int], rows: Iterable[Row]) -> None:
    for row in rows:
        if row["role"] == SOLVER:
            counts["rollouts"] += 1
            counts["truncated"] += row["finish_reason"] == "length"
        elif row["question"] and (reason := row["reject_reason"]):
            counts["unreadable_images" if reason.startswith(UNREADABLE) else "refused"] += 1


def _trajectories(groups: Iterable[list[Row]], prompt: str, samples: int) -> Iterator[tuple[Row, Request | None]]:
    """The proposer's row of each group, then its Solver rows, still without completions, with their requests."""
    for proposal, *_ in groups:
        if not proposal["question"]:
            yield proposal, None
            continue
        try:
            pictures = _pictures(proposal)
        except images.UnreadableImage as error:
            yield proposal | {"reject_reason": str(error)}, None
            continue
        yield proposal, None
        shared = {name: proposal[name] for name in SHARED}
        text = with_question(prompt, proposal["question"])
        for index in range(samples):
            seed = trajectory_seed(proposal["group_id"], SOLVER, index, ANSWER)
            row: Row = {**shared, "role": SOLVER, "pass": ANSWER, "sample_index": index, "prompt": text, "seed": seed}
            yield row, Request(pictures, text, seed)


def _check_readable(questions: shards.Shards) -> None:
    """Raises DataError when the images of no question can be read: most likely all are looked for in a wrong place."""
    problem, count = None, 0
    for proposal, *_ in questions.groups():
        if proposal["question"]:
            count += 1
            try:
                _pictures(proposal)
                return
            except images.UnreadableImage as error:
                problem = problem or error
    if problem:
        raise DataError(f"{questions.files[0]}: none of its {count} questions has images that can be read ({problem})")


def _pictures(proposal: Row) -> tuple[Image, ...]:
    """Raises UnreadableImage, also for images that are missing or have changed."""
    try:
        encoded = images.read_all(proposal)
    except DataError as error:
        raise images.UnreadableImage(f"{UNREADABLE}: {error}") from error
    return tuple(map(images.decode, encoded))
