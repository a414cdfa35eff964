"""Groups of trajectories for a person to look at: choosing them by what they are worth, and reading them."""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages import shards
from stages.contract import ANSWER, CREDIT, PROPOSER, SCORE_COLUMNS, SCORED, SOLVER, TRAJECTORY, Metadata, Row
from stages.errors import UsageError
from stages.parsing import parse_completion
from stages.rewards.explained import RewardTerms, Summands, reward_terms

ROUNDING = 1e-6
LOOKED_AT = pa.schema([column for column in TRAJECTORY if column.name not in ("token_ids", "logprobs", "prompt")])


class Order(StrEnum):
    """By what groups are chosen: the Solver's mean reward, from either end, or how much the answers differ."""

    best = "best"
    worst = "worst"
    disagree = "disagree"


@dataclass(frozen=True)
class Answer:
    """One of a group's answers. text None: no answer could be parsed."""

    text: str | None
    samples: list[int]
    dominant: bool


@dataclass(frozen=True)
class Group:
    """A proposal and its rollouts, as rows of the trajectory table; `score_params` are {} for what is not scored."""

    proposal: Row
    rollouts: list[Row]
    score_params: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.proposal["group_id"] or ""

    @property
    def is_scored(self) -> bool:
        return self.proposal["step"] is not None

    @property
    def _answered(self) -> list[Row]:
        return [row for row in self.rollouts if (row["pass"] or ANSWER) == ANSWER]

    @property
    def answers(self) -> list[Answer]:
        """The answers, most frequent first, then in the order they were sampled; of other passes none."""
        by_key: dict[str | None, list[Row]] = {}
        for row in self._answered:
            by_key.setdefault(row["answer_key"], []).append(row)
        ranked = sorted(by_key.items(), key=lambda item: (item[0] is None, -len(item[1])))
        return [
            Answer(rows[0]["answer"], [row["sample_index"] for row in rows], bool(rows[0]["dominant"]))
            for _, rows in ranked
        ]

    @property
    def mean_reward(self) -> float | None:
        rewards = [row["reward"] for row in self.rollouts if row["reward"] is not None]
        return sum(rewards) / len(rewards) if rewards else None

    @property
    def entropy(self) -> float | None:
        """Of the answers, nats, as `score` has it or would have it."""
        answered = self._answered
        if self.is_scored or not answered:
            return self.proposal["entropy"]
        shares = [count / len(answered) for count in Counter(row["answer_key"] for row in answered).values()]
        return abs(sum(share * math.log(share) for share in shares))

    def to_json(self) -> Row:
        rollouts = []
        for row in self.rollouts:
            terms = reward_terms(row, self.score_params)
            shown = {name: value for name, value in row.items() if name not in _SHARED}
            changed = terms is not None and is_changed(row, terms)
            rollouts.append({**shown, "terms": vars(terms) if terms else None, "reward_changed": changed})
        proposal = {name: value for name, value in self.proposal.items() if name in _PROPOSAL}
        return {
            **proposal,
            "images": [(picture or {}).get("path") for picture in self.proposal["images"] or ()],
            "entropy": self.entropy,
            "answers": [vars(answer) for answer in self.answers],
            "rollouts": rollouts,
        }


_SHARED = {"group_id", "group_index", "role", "images", "images_sha256", "question", "step", "entropy"}
_PROPOSAL = {*_SHARED, "completion", "finish_reason", "reject_reason", "reward"}


def is_changed(row: Row, terms: RewardTerms | Summands) -> bool:
    """Whether the reward of a row is no longer the one that its terms make: somebody has put another in its place."""
    return abs(terms.total - row["reward"]) > ROUNDING


def score_params(metadata: Metadata) -> dict[str, Any]:
    return metadata.params if metadata.stage == "score" else {}


def as_group(table: pa.Table, params: Mapping[str, Any]) -> Group | None:
    """A group from its rows; None where they do not begin with a proposal. Rollouts that are not scored yet are
    parsed, so that their answers and steps can be looked at."""
    first, *others = table.to_pylist()
    if first["role"] != PROPOSER:
        return None
    rollouts = [row for row in others if row["role"] == SOLVER]
    for row in rollouts:
        row.pop("images", None)  # the proposal's, once more
    if first["step"] is None:
        for row in rollouts:
            parsed = parse_completion(row["completion"] or "")
            row |= {"answer": parsed.answer, "answer_key": parsed.answer_key, "steps": parsed.steps}
    return Group(first, rollouts, params)


def choose(files: Sequence[Path], metadata: Metadata, order: Order, count: int) -> list[str]:
    """The group_ids of the `count` groups that come first by `order`, those without rollouts left out.

    Raises UsageError when the order needs rewards that are not there.
    """
    if order is not Order.disagree and metadata.stage != "score":
        raise UsageError(f"--{order} needs rewards: `ireasoner score` comes first (--disagree does without)")
    names = ("group_id", "role", "pass", "sample_index", *(() if metadata.stage == "score" else ("completion",)))
    columns = pa.schema([SCORED.field(name) for name in names])
    ranked = (
        (rank, -place, group.id)
        for place, table in enumerate(shards.whole_groups(files, columns, SCORE_COLUMNS))
        if (group := as_group(table, {})) and (rank := _rank(group, order)) is not None
    )
    return [group for _, _, group in heapq.nlargest(count, ranked)]


def _rank(group: Group, order: Order) -> tuple[float, float] | None:
    if not group.rollouts:
        return None
    if order is Order.disagree:
        similar = [value for row in group.rollouts for value in row["step_similarity"] or () if value is not None]
        return group.entropy or 0.0, -sum(similar) / len(similar) if similar else 0.0
    reward = group.mean_reward
    return None if reward is None else (reward if order is Order.best else -reward, 0.0)


def read_groups(files: Sequence[Path], metadata: Metadata, ids: Sequence[str]) -> list[Group]:
    """The groups with these ids, in their order."""
    found = {group.id: group for group in _read(files, metadata, set(ids).__contains__)}
    return [found[group] for group in ids if group in found]


def find_group(files: Sequence[Path], metadata: Metadata, prefix: str) -> Group:
    """The group whose id begins with `prefix`. Raises UsageError when there is none, or more than one."""
    matching = list(islice(_read(files, metadata, lambda group: group.startswith(prefix.lower())), 2))
    if not matching:
        raise UsageError(f"no group's id begins with {prefix!r}; --best, --worst and --disagree find some")
    if len(matching) > 1:
        raise UsageError(f"more than one group's id begins with {prefix!r}: {matching[0].id}, {matching[1].id} …")
    return matching[0]


def _optional(file: Path) -> pa.Schema:
    """The score columns, those in `file` of terms and of credit that not every shard has among them."""
    others = [
        column
        for column in shards.schema_of(file)
        if column.name in CREDIT.names or (column.name.startswith("r_") and column.name not in SCORE_COLUMNS.names)
    ]
    return pa.schema([*SCORE_COLUMNS, *others])


def _read(files: Sequence[Path], metadata: Metadata, wanted: Callable[[str], bool]) -> Iterator[Group]:
    params = score_params(metadata)
    for file in files:
        for table in shards.select_groups(file, wanted, LOOKED_AT, _optional(file)):
            if group := as_group(table, params):
                yield group
