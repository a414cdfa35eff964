"""What an optimizer step learns from: the rows of groups, checked, with their images processed."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from stages import images
from stages.contract import PROPOSER, SOLVER, Metadata, Role
from stages.errors import DataError
from stages.learning.advantages import COMPARING
from stages.learning.learner import Learner, TrainingGroup, forbidden_in
from stages.models.finding import Model
from stages.parameters.sampling import Pixels

Group = list[dict[str, Any]]


@dataclass(frozen=True)
class Proposals:
    """Groups as the Proposer sees them, of one optimizer step: the training step of the last, the rewards of those that
    have one, and the rows that the Proposer is due to learn from, those about the same images together."""

    step: int
    rewards: list[float]
    groups: list[TrainingGroup]


@dataclass(frozen=True)
class Batch:
    """`size` groups, the last of which is that of training step `step`, ready to learn from: the Solver's trajectories
    of those that have any, for one optimizer step, and every group's proposal, for as many as these are."""

    step: int
    size: int
    solver: list[TrainingGroup]
    proposals: list[Proposals]


class GroupReader:
    """Turns the rows of groups into what the learner takes, checking what another tool may have got wrong."""

    def __init__(self, recorded: Metadata, model: Model, policy_step: int, learner: Learner) -> None:
        self._model = model
        self._vocabulary = len(model.embedding_table())
        self._policy_step = policy_step
        self._learner = learner
        self._pixels: dict[Role, Pixels] = {
            role: Pixels(params.get("min_pixels"), params.get("max_pixels"))
            for role, params in (
                (SOLVER, recorded.stage_params("rollout")),
                (PROPOSER, recorded.stage_params("propose")),
            )
        }

    def batches(self, groups: Iterable[Group], after: int) -> Iterator[Batch]:
        """The groups in the batches of an update; of those up to training step `after`, only step and size."""
        iterator = iter(groups)
        while batch := list(islice(iterator, self._learner.params.groups_per_step)):
            step = self._step(batch[-1])
            yield self._batch(batch) if step > after else Batch(step, len(batch), [], [])

    def _batch(self, groups: list[Group]) -> Batch:
        for group in groups:
            self._check_rewards(group)
        roles = self._learner.params.roles
        solver = [rows for rows in (_learnable(group, SOLVER) for group in groups) if rows and roles != "proposer"]
        return Batch(
            step=self._step(groups[-1]),
            size=len(groups),
            solver=[self._training_group(rows, SOLVER, place) for place, rows in enumerate(solver)],
            proposals=[self._proposals(unit) for unit in self._units(groups)],
        )

    def _units(self, groups: list[Group]) -> list[list[list[Group]]]:
        """The groups of each of the Proposer's optimizer steps, those about the same images together where they are
        compared: a step for each, or, where it alone learns, one for all."""
        params = self._learner.params
        alike = [[group] for group in groups]
        if params.advantage in COMPARING:
            alike = [list(same) for _, same in groupby(groups, key=_pictured)]
        return [alike] if params.roles == "proposer" else [[same] for same in alike]

    def _proposals(self, unit: list[list[Group]]) -> Proposals:
        params = self._learner.params
        due = [[group for group in same if self._step(group) % params.proposer_every == 0] for same in unit]
        rows = [[row for group in same for row in _learnable(group, PROPOSER)] for same in due]
        learned = [own for own in rows if own and params.roles != "solver"]
        return Proposals(
            step=self._step(unit[-1][-1]),
            rewards=[group[0]["reward"] for same in unit for group in same if group[0]["reward"] is not None],
            groups=[self._training_group(own, PROPOSER, place) for place, own in enumerate(learned)],
        )

    def _step(self, group: Group) -> int:
        """The group's training step t. Raises DataError unless it follows from the policy and group_index."""
        step, expected = group[0]["step"], self._policy_step + group[0]["group_index"] + 1
        if step != expected:
            raise DataError(f"group {group[0]['group_id']}: its step is {step}, and should be {expected}")
        return expected

    def _check_rewards(self, group: Group) -> None:
        """Raises DataError for a reward that is no number: it would stay in the baseline for ever."""
        for row in group:
            if row["reward"] is not None and not math.isfinite(row["reward"]):
                raise DataError(f"{_where(row)}: its reward is not a finite number")

    def _training_group(self, rows: Group, role: Role, place: int) -> TrainingGroup:
        """`rows` of one group, which is the step's at `place`; its prompt only where this process computes it."""
        for row in rows:
            self._check(row)
        if len({row["prompt"] for row in rows}) > 1:
            raise DataError(f"group {rows[0]['group_id']}: its {role} rows have different prompts")
        prompt = None
        if self._learner.computes(place):
            pictures = images.load_all(rows[0])
            prompt = self._learner.model.process(pictures, rows[0]["prompt"] or "", self._pixels[role])
        return TrainingGroup(
            prompt=prompt,
            token_ids=[row["token_ids"] for row in rows],
            logprobs=[row["logprobs"] for row in rows],
            rewards=[row["reward"] for row in rows],
        )

    def _check(self, row: dict[str, Any]) -> None:
        where = _where(row)
        logprobs = row["logprobs"] or []
        if len(logprobs) != len(row["token_ids"]):
            raise DataError(f"{where}: {len(row['token_ids'])} token_ids but {len(logprobs)} logprobs")
        if not all(value is not None and math.isfinite(value) for value in logprobs):
            raise DataError(f"{where}: a log-probability is not a finite number")
        if (token := forbidden_in(self._model, row["token_ids"], self._vocabulary)) is not None:
            raise DataError(f"{where}: token {token} cannot have been sampled from {self._model.ref.name}")


def _pictured(group: Group) -> tuple[str, ...]:
    """What the group's images are, its own id where that is not recorded."""
    hashes = group[0]["images_sha256"]
    return tuple(hashes) if hashes and all(hashes) else (group[0]["group_id"],)


def _learnable(group: Group, role: Role) -> Group:
    """The role's rows that have tokens and a reward."""
    return [row for row in group if row["role"] == role and row["token_ids"] and row["reward"] is not None]


def _where(row: dict[str, Any]) -> str:
    return f"group {row['group_id']}, {row['role']} {row['sample_index']}"
