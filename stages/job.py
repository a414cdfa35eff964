"""What every stage does, once: which model and policy it works with, whether its output is there already, what of it is
left to do, and where the rows go.

A stage names its inputs, its parameters and its rows:

    job = Job("rollout", call, Start.recorded(call, questions), output=…, params=…, …)
    if there := job.there():
        return there
    with job.writing(TRAJECTORY, progress) as rollouts, rollouts.using(load) as model:
        for group in …[rollouts.left]: rollouts.write(group)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from stages import images, shards
from stages.contract import InputRef, Metadata, ModelRef
from stages.errors import DataError
from stages.models.finding import DEFAULT_MODEL, Model, locate_model
from stages.parameters import Call
from stages.policy import AdapterName, Policy, check_model, open_policy, recorded_policy
from stages.progress import Progress
from stages.result import Result

T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """The model and the policy that a stage works with; `source`: the shards whose pictures it shows to them."""

    model: Model
    policy: Policy
    source: shards.Shards | None = None

    @staticmethod
    def chosen(call: Call, adapter: AdapterName | None = None) -> "Start":
        """Of a stage that begins a chain: the policy that is asked for, and the model it was trained on. Of a policy of
        which one `adapter` will be loaded nothing else is read.

        Raises UsageError, DataError and EngineError as `open_policy` and `locate_model` do.
        """
        policy = open_policy(call.policy, adapter)
        model = locate_model(call.model, policy.state.model if policy.state else ModelRef(DEFAULT_MODEL))
        return Start(model, policy)

    @staticmethod
    def unread(call: Call, source: shards.Shards) -> "Start":
        """Of a stage that goes on with one without looking at the policy: its model, wherever it lies.

        Raises UsageError, DataError and EngineError as `locate_model` does.
        """
        return Start(locate_model(call.model, source.metadata.model), Policy(None, None, source.metadata.policy))

    @staticmethod
    def recorded(call: Call, source: shards.Shards, adapter: AdapterName | None = None, lag: int = 0) -> "Start":
        """Of a stage that goes on with one: the policy and the model that `source` was made with, or with a `lag` of 1
        the policy that was made from it; `adapter` as above.

        Raises UsageError, DataError and EngineError as `recorded_policy`, `locate_model` and `check_model` do.
        """
        policy = recorded_policy(call.policy, source.metadata.policy, source.files[0], adapter, lag)
        model = locate_model(call.model, source.metadata.model)
        check_model(policy, model.ref)
        return Start(model, policy, source)


class Job:
    """One output of a stage, to be made as `call` asks.

    `params` are what shapes its rows, `total` is how many of `unit` there are to do, of which `todo` in this part.
    `rejects`: a picture that cannot be had costs its group only, and not the stage.
    """

    def __init__(
        self,
        stage: str,
        call: Call,
        start: Start,
        *,
        output: Path,
        params: dict[str, Any],
        seed: int,
        inputs: tuple[InputRef, ...],
        total: int,
        unit: str = "groups",
        rejects: bool = False,
    ) -> None:
        self.call = call
        self.start = start
        self.output = output
        self.metadata = Metadata(
            stage=stage,
            params={**params, "limit": call.limit} | ({"recipe": call.recipe} if call.recipe else {}),
            seed=seed,
            inputs=inputs,
            model=start.model.ref,
            policy=start.policy.ref,
        )
        part = shards.Part.of(call.shard) or shards.Part()
        self.todo = range(*part.bounds(total))
        self._unit = unit
        self._rejects = rejects

    def there(self, requests: Callable[[range], int] | None = None) -> Result | None:
        """The result, where nothing is to be made: the output is there, or a dry run only asks what would be done.

        `requests` says how many samples it would take to do what is left. Raises UsageError when something else is in
        the output's place, DataError when it is damaged, and of a dry run for pictures that are gone or have changed,
        unless these are only rejected; then it says how many.
        """
        if self.is_done():
            return Result(self.output, reused=True)
        if not self.call.dry_run:
            return None
        done = min(self.left_over(), len(self.todo))
        left = self.todo[done:]
        missing = self._look_at_pictures(left)
        summary = shards.plan(self.output, self.metadata, self._unit, len(self.todo), done)
        summary |= {"unreadable_images": missing} if self._rejects else {}
        return Result(self.output, summary=summary | ({"requests": requests(left)} if requests else {}))

    def _look_at_pictures(self, left: range) -> int:
        """Of how many of the groups at `left` a picture cannot be had; raises DataError where the stage will."""
        missing = 0
        for proposal, *_ in self.start.source.groups(left) if self.start.source else ():
            try:
                if proposal["question"]:
                    images.read_all(proposal)
            except DataError:
                if not self._rejects:
                    raise
                missing += 1
        return missing

    def is_done(self) -> bool:
        return shards.is_done(self.output, self.metadata, self.call.force, tidy=not self.call.dry_run)

    def left_over(self) -> int:
        """How much an interrupted run has left to be taken up."""
        return shards.left_over(self.output, self.metadata, self.call.force)

    @contextmanager
    def writing(self, schema: pa.Schema, progress: Progress) -> Iterator["Writing"]:
        """Within, the output is being made; it appears when the block ends without an exception."""
        with shards.Output(self.output, schema, self.metadata, self.call.force, progress) as output:
            yield Writing(output, self.todo[output.done :], len(self.todo), self.metadata.stage, self._unit, progress)


class Writing:
    """An output in the making. `left` are the places of what is still to be written."""

    def __init__(
        self, output: shards.Output, left: range, total: int, stage: str, unit: str, progress: Progress
    ) -> None:
        self.left = left
        self._output = output
        self._total = total
        self._stage = stage
        self._unit = unit
        self._progress = progress
        self._advance: Callable[[int], None] = lambda done: None

    @contextmanager
    def using(self, load: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
        """Loads the model that the rows come from, and lets go of it where the block ends; within, progress is
        shown."""
        with self._progress.busy("loading the model"):
            loaded = load()
        with loaded as model, self._progress.track(self._stage, self._total, self._unit) as self._advance:
            self._advance(self._total - len(self.left))
            yield model

    def made_on(self, device: dict[str, Any]) -> None:
        """Records what the rows are computed on. Before the first `write`."""
        self._output.made_on(device)

    def taken_up(self, *columns: str) -> Iterator[pa.Table]:
        """Some columns of what an interrupted run has left, for the closing summary. Before the first `write`."""
        return self._output.taken_up(columns)

    def write(self, rows: list[dict[str, Any]] | pa.Table, count: int = 1) -> None:
        """Adds the rows of `count` groups or questions."""
        self._output.write(rows)
        self._advance(count)
