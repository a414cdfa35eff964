"""What an optimizer step learns from: the rows of groups, checked, with their images processed."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from stages.contract import ANSWER, PROPOSER, SOLVER, Metadata, Role, Row, images_id
from stages.errors import DataError
from stages.learning.advantages import COMPARING
from stages.learning.contexts import Context, Contexts, processed
from stages.learning.learner import Learner, check_sampled
from stages.learning.rows import TrainingGroup
from stages.models.finding import Model
from stages.models.spans import named
from stages.rewards.parts import broken_parts, per_token

Group = list[Row]


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

    def __init__(self, recorded: Metadata, model: Model, learner: Learner) -> None:
        self._model = model
        self._vocabulary = len(model.embedding_table())
        self._start = recorded.step
        self._learner = learner
        self._contexts = Contexts(recorded)

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
        learnable = _paired if self._learner.params.loss == "dpo" else _learnable
        solver = [rows for rows in (learnable(group, SOLVER) for group in groups) if rows and roles != "proposer"]
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
        """The group's training step t. Raises DataError unless it follows from group_index."""
        step, expected = group[0]["step"], self._start + group[0]["group_index"] + 1
        if step != expected:
            raise DataError(f"group {group[0]['group_id']}: its step is {step}, and should be {expected}")
        return expected

    def _check_rewards(self, group: Group) -> None:
        """Raises DataError for a reward that is no number: it would stay in the baseline for ever."""
        for row in group:
            if row["reward"] is not None and not math.isfinite(row["reward"]):
                raise DataError(f"{named(row)}: its reward is not a finite number")

    def _training_group(self, rows: Group, role: Role, place: int) -> TrainingGroup:
        """`rows` of one group, which is the step's at `place`; its prompts only where this process computes it."""
        for row in rows:
            self._check(row)
        contexts = [self._contexts.of(row) for row in rows]
        first: dict[Context, dict[str, Any]] = {}
        for context, row in zip(contexts, rows, strict=True):
            first.setdefault(context, row)
        order = list(first)
        prompts = []
        if self._learner.computes(place):
            prompts = [processed(self._learner.model, context, row) for context, row in first.items()]
        of_pairs = role == SOLVER and self._learner.params.loss == "dpo"
        return TrainingGroup(
            prompts=prompts,
            token_ids=[row["token_ids"] for row in rows],
            logprobs=[row["logprobs"] for row in rows],
            rewards=[] if of_pairs else [row["reward"] for row in rows],
            behind=[order.index(context) for context in contexts],
            passes=[row["pass"] or ANSWER for row in rows],
            pairs=_pairs(rows) if of_pairs else (),
            right=self._right(rows) if role == SOLVER and self._learner.params.loss_aux else (),
            credit=[_credit(row) for row in rows] if role == SOLVER and "step_credit" in rows[0] else (),
            step=self._step(rows),
        )

    def _right(self, rows: Group) -> list[bool | None]:
        """Whether each has the dominant answer; None of one that was cut off, behind which nothing is read."""
        ends = self._model.end_of_turn
        return [bool(row["dominant"]) if row["token_ids"][-1] in ends else None for row in rows]

    def _check(self, row: dict[str, Any]) -> None:
        where = named(row)
        logprobs = row["logprobs"] or []
        if len(logprobs) != len(row["token_ids"]):
            raise DataError(f"{where}: {len(row['token_ids'])} token_ids but {len(logprobs)} logprobs")
        if not all(value is not None and math.isfinite(value) for value in logprobs):
            raise DataError(f"{where}: a log-probability is not a finite number")
        check_sampled(self._model, row["token_ids"], self._vocabulary, where)


def _pictured(group: Group) -> str:
    """What the group's images are, its own id where that is not recorded."""
    return images_id(group[0]["images_sha256"]) or group[0]["group_id"]


def _learnable(group: Group, role: Role) -> Group:
    """The role's rows that have tokens and a reward, and were not left out."""
    return [
        row
        for row in group
        if row["role"] == role and row["token_ids"] and row["reward"] is not None and row["selected"] is not False
    ]


def _paired(group: Group, role: Role) -> Group:
    """The role's rows in pairs of which both have tokens. Raises DataError for what is no pair."""
    by_pair: dict[int, Group] = {}
    for row in group:
        if row["role"] == role and row["pair"] is not None:
            by_pair.setdefault(row["pair"], []).append(row)
    for pair, rows in by_pair.items():
        if sorted(bool(row["preferred"]) for row in rows) != [False, True]:
            raise DataError(f"group {group[0]['group_id']}: pair {pair} is not of a preferred row and another")
    whole = {pair for pair, rows in by_pair.items() if all(row["token_ids"] for row in rows)}
    return [row for row in group if row["role"] == role and row["pair"] in whole]


def _pairs(rows: Group) -> list[tuple[int, int]]:
    """The places of the preferred row and of the other, of each pair, in the order in which pairs come."""
    places = {(row["pair"], bool(row["preferred"])): place for place, row in enumerate(rows)}
    return [(places[pair, True], places[pair, False]) for pair in dict.fromkeys(row["pair"] for row in rows)]


def _credit(row: dict[str, Any]) -> list[float]:
    """Of each of the row's tokens, that of its step. Raises DataError for what is none."""
    parts = row["step_credit"] or (), row["step_tokens"] or (), len(row["token_ids"])
    if problem := broken_parts(*parts):
        raise DataError(f"{named(row)}: {problem}")
    return per_token(*parts)
