"""`rollout`: N reasoned answers to each question, or the rows of a later pass beside those that are there.

questions.parquet + policy ──▶ rollouts.parquet
rollouts.parquet  + policy ──▶ NAME.parquet, with `--pass NAME`
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from stages import images, shards
from stages.ahead import ahead
from stages.contract import ANSWER, SOLVER, TRAJECTORY, UNREADABLE, Row
from stages.errors import DataError
from stages.job import Job, Start
from stages.parameters import Call, recorded
from stages.parameters.rollout import RolloutParams
from stages.progress import SILENT, Progress
from stages.prompts import read_prompt
from stages.result import Result
from stages.sampling import Engines, Refused, Request, open_sampler
from stages.sampling.passes import SolverPass
from stages.sampling.rows import Asking, sample_columns, with_samples

READ_AHEAD = 64  # trajectories whose images are decoded while others are sampled


def rollout(
    inputs: Sequence[Path],
    params: RolloutParams,
    call: Call = Call(),
    progress: Progress = SILENT,
    engines: Engines = open_sampler,
) -> Result:
    """Writes the rollouts shard: each group's rows as they were, then those of this pass.

    A group without a question gets none, nor one whose images cannot be read or that the model cannot take: its
    Proposer's row says why. Raises DataError for shards or a policy that do not fit, and when the images of no group
    can be read; UsageError for paths that are not there and a pass that does not go with what is, EngineError for the
    model.
    """
    groups = shards.Shards(inputs, ("propose", "rollout", "score"), TRAJECTORY)
    start = Start.unread(call, groups) if params.adapter == "base" else Start.recorded(call, groups, params.adapter)
    asks = params.pass_name == ANSWER and params.of is None
    asking = Asking.settled(SOLVER, start, params.sampling, params.adapter, asks)
    learn_prompt = None if params.learn_prompt is None else read_prompt(params.learn_prompt)
    own = SolverPass(
        params.samples, asking.prompt, params.pass_name, params.of, params.no_image, params.view, learn_prompt
    )
    own.check(groups.passes())
    earlier = groups.metadata.passes
    job = Job(
        "rollout",
        call,
        start,
        output=shards.output_path(call.out, "rollouts" if own.name == ANSWER else own.name, inputs, call.shard),
        params={
            **recorded(params),
            **asking.recorded(),
            "pass": own.name,
            "learn_prompt": learn_prompt,
            **({"passes": earlier} if earlier else {}),
            "propose": groups.metadata.stage_params("propose"),
        },
        seed=groups.metadata.seed,
        inputs=groups.inputs,
        total=call.at_most(groups.group_count),
        rejects=True,
    )

    def requests(left: range) -> int:
        _check_readable(groups, own)
        return sum(len(list(own.prompts(group))) for group in groups.groups(left) if _is_there(group[0], own))

    if there := job.there(requests):
        return there

    _check_readable(groups, own)
    counts = {"groups": len(job.todo), "rollouts": 0, "truncated": 0, "unreadable_images": 0, "refused": 0}
    counts |= {"parents_left_out": 0} if own.of else {}
    load = partial(asking.open, engines, groups.most_images())
    with job.writing(TRAJECTORY, progress) as rollouts, rollouts.using(load) as sampler:
        rollouts.made_on(sampler.device)
        for table in rollouts.taken_up("role", "pass", "sample_index", "question", "finish_reason", "reject_reason"):
            _count(counts, table.to_pylist(), own)
        trajectories = _trajectories(groups.groups(rollouts.left), own)
        rows = with_samples(sampler, params.sampling.decoding, ahead(trajectories, depth=READ_AHEAD))
        for _, group in groupby(rows, key=lambda pair: pair[0]["group_id"]):
            complete, refused = [], None
            for row, sample in group:
                complete.append(row | sample_columns(sample) if sample else row)
                refused = sample if isinstance(sample, Refused) else refused
            complete = own.settled(complete, refused)
            _count(counts, complete, own)
            rollouts.write(complete)
    return Result(job.output, summary=counts)


def _count(counts: dict[str, int], rows: Iterable[Row], own: SolverPass) -> None:
    """Adds up what the rows of whole groups say of the pass."""
    for row in rows:
        reason = row["reject_reason"]
        if row["role"] == SOLVER:
            if own.of and (row["pass"] or ANSWER) == own.of:
                counts["parents_left_out"] += 1
            if row["pass"] == own.name:
                if own.of:  # its parent was not left out
                    counts["parents_left_out"] -= row["sample_index"] % own.samples == 0
                counts["rollouts"] += 1
                counts["truncated"] += row["finish_reason"] == "length"
                counts["refused"] += row["finish_reason"] is None
        elif row["question"] and reason:
            counts["unreadable_images" if reason.startswith(UNREADABLE) else "refused"] += 1


def _trajectories(groups: Iterable[list[Row]], own: SolverPass) -> Iterator[tuple[Row, Request | None]]:
    """The rows of each group that are there, then those of the pass, still without completions, with their requests."""
    for proposal, *others in groups:
        asked = own.rows([proposal, *others])
        try:
            first = next(asked, None)
        except images.UnreadableImage as error:
            proposal, first = proposal | {"reject_reason": str(error)}, None
        yield from ((row, None) for row in (proposal, *others))
        if first:
            yield first
            yield from asked


def _is_there(proposal: Row, own: SolverPass) -> bool:
    """Whether the images that the pass shows are what they were."""
    try:
        return own.no_image or bool(images.read_all(proposal))
    except DataError:
        return False


def _check_readable(groups: shards.Shards, own: SolverPass) -> None:
    """Raises DataError when the images of no question can be read: most likely all are looked for in a wrong place."""
    problem, count = None, 0
    for group in groups.groups():
        if group[0]["question"] and not own.no_image:
            count += 1
            try:
                images.load_all(group[0])
                return
            except DataError as error:
                problem = problem or error
    if problem:
        raise DataError(f"{groups.files[0]}: none of its {count} questions has images that can be read ({problem})")
