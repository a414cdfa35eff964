"""The rewards that were asked for, read and looked up: what `block` then applies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.contract import ANSWER, CREDIT, PAIRS, Metadata
from stages.errors import UsageError
from stages.parameters.score import ScoreParams
from stages.rewards import custom, expression, pairs, proposer, terms, votes
from stages.rewards.choices import unknown
from stages.rewards.custom import CustomTerm
from stages.rewards.pairs import Rule
from stages.rewards.proposer import Term as ProposerTerm
from stages.scoring.passes import Passes

OWN = "own_terms"  # under which a shard records the user's own terms
HELD_TO_TARGETS = {"calibration", "children", "majority", "reader"}  # terms that look at what is right
WITH_COLUMNS = ("answer", "step")  # terms whose columns every scored table has


@dataclass(frozen=True)
class Chosen:
    """solver: weight of each term of the Solver's reward; None for iReasoner's, the answer and the steps by schedule.
    proposer: likewise, of the Proposer's. factor: a term that multiplies the Solver's, LO and HI. passes: what those of
    the shard are to them. verdict: the tag of numbers, LO and HI. own: the user's own terms by name. keep: LO and HI of
    the vote. pairs: the rule, and the passes that it compares."""

    params: ScoreParams
    solver: dict[str, float] | None
    proposer: dict[str, float]
    solver_terms: dict[str, terms.Term]
    proposer_terms: dict[str, ProposerTerm]
    vote: votes.Vote
    passes: Passes
    verdict: tuple[str, float, float]
    factor: tuple[str, float, float] | None = None
    pairs: tuple[Rule, tuple[str, ...]] | None = None
    keep: tuple[float, float] | None = None
    own: dict[str, CustomTerm] = field(default_factory=dict)

    @staticmethod
    def of(
        params: ScoreParams, passes: Sequence[str] = (ANSWER,), recorded: Mapping[str, Mapping[str, Any]] | None = None
    ) -> "Chosen":
        """Of a shard with these passes, and what is recorded of them.

        Raises UsageError for rewards that are not there, or do not go together, or not with the shard.
        """
        own = [custom.load(place) for place in params.term or ()]
        names = [term.name for term in own]
        shipped = {*terms.names(), *proposer.names()}
        for name in names:
            if name in shipped or names.count(name) > 1:
                raise UsageError(f"--term: there is a term {name} already; give the function another name")
        solver = None
        if params.solver_reward is not None:
            if params.reward != "mixed":
                raise UsageError("--solver-reward takes the place of --reward; give one of them")
            solver = expression.parse(params.solver_reward, [*terms.names(), *names])
        of_proposer = expression.parse(params.proposer_reward, [*proposer.names(), *names])
        factor = None if params.factor is None else _bounded("--factor", params.factor)
        if factor and factor[0] not in terms.names():
            raise UsageError(f"--factor {params.factor}: {unknown('term', factor[0], terms.names())}")
        asked = list(dict.fromkeys([*(solver or ()), *([factor[0]] if factor else [])]))
        if params.credit and params.pairs:
            raise UsageError(
                "--pairs are learned by what they prefer, and not by the credit of steps; leave out --credit"
            )
        if params.top is not None and params.pairs:
            raise UsageError("--pairs say which rows are learned from, and --top would say it again; leave it out")
        if "balance" in of_proposer and len(kinds_in(params)) < 2:
            raise UsageError("the term balance needs --kinds, two kinds of question that there are to be or more")
        used = {*(solver or ()), *of_proposer}
        if idle := [name for name in names if name not in used]:
            raise UsageError(f"--term: {idle[0]} is neither in --solver-reward nor in --proposer-reward")
        of_passes = Passes.of(params, passes, recorded or {}, [*asked, *of_proposer])
        if params.target and not (params.top or params.keep or HELD_TO_TARGETS.union(names).intersection(asked)):
            raise UsageError(
                f"--target {params.target}: nothing of this reward looks at it; add --solver-reward majority, which "
                "pays what is right, or leave out --target"
            )
        if params.pool != "mean" and not of_passes.several:
            raise UsageError(f"--pool {params.pool}: it is of the votes of several passes; add --target A+B")
        return Chosen(
            params,
            solver,
            of_proposer,
            {name: terms.load(name) for name in [*WITH_COLUMNS, *asked] if name not in names},
            {name: proposer.load(name) for name in of_proposer if name not in names},
            votes.load(params.vote),
            of_passes,
            _bounded("--verdict", params.verdict),
            factor,
            None if params.pairs is None else _rule(params.pairs, passes),
            None if params.keep is None else _band(params.keep),
            {term.name: term for term in own},
        )

    @property
    def kinds(self) -> list[str]:
        """The kinds of question that there are to be."""
        return kinds_in(self.params)

    def check_sampling(self, rollouts: Metadata) -> None:
        """Raises UsageError where stored log-probabilities are asked for that are not the policy's own."""
        needed: dict[str, str] = {}  # by which pass it is that needs them
        if self.params.vote in ("likelihood", "weakest-token"):
            needed |= dict.fromkeys(self.passes.electing, f"--vote {self.params.vote}")
        if "confidence" in self.solver_terms:
            needed |= dict.fromkeys(self.passes.rewarded, "the term confidence")
        for name, what in needed.items():
            sampled = rollouts.passes.get(name, {})
            temperature, top_p = (sampled.get(each, "unknown") for each in ("temperature", "top_p"))
            if (temperature, top_p) != (1.0, 1.0):
                raise UsageError(
                    f"{what} needs the log-probabilities of temperature 1 and top-p 1, and the rollouts of pass "
                    f"{name} were sampled at temperature {temperature}, top-p {top_p}"
                )

    @property
    def columns(self) -> pa.Schema:
        """One for each term beside the answer's and the steps', before its weight."""
        asked = dict.fromkeys([*(self.solver or ()), *([self.factor[0]] if self.factor else [])])
        names = [name for name in asked if name not in WITH_COLUMNS]
        names += [name for name in self.proposer if self.proposer != {"entropy": 1.0} and name not in names]
        names += ["question_share"] if self.params.question_share else []
        names = [f"r_{name}" for name in names] + (["self_reward"] if self.params.vote == "self-reward" else [])
        more = [*(PAIRS if self.pairs else ()), *(CREDIT if self.params.credit else ())]
        return pa.schema([*((name, pa.float64()) for name in names), *more])

    @property
    def reads_policy(self) -> bool:
        """Whether the policy that the rollouts were sampled from is loaded, and asked."""
        return self.params.embedding == "hidden" or self.params.vote == "self-reward"

    @property
    def runs_model(self) -> bool:
        """Whether a model is loaded and run, be it the policy or the base."""
        return self.reads_policy or self.params.credit == "trust"

    def recorded(self) -> dict[str, Any]:
        """What a shard records of the user's own terms."""
        return {OWN: {name: term.sha256 for name, term in self.own.items()}} if self.own else {}


def kinds_in(params: ScoreParams) -> list[str]:
    named = (" ".join(kind.lower().split()) for kind in (params.kinds or "").split(","))
    return list(dict.fromkeys(filter(None, named)))


def _bounded(option: str, text: str) -> tuple[str, float, float]:
    """NAME:LO:HI, LO < HI."""
    name, *bounds = text.split(":")
    try:
        low, high = map(float, bounds)
    except ValueError:
        low = high = math.nan
    if not (name.strip() and math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"{option} {text}: not NAME:LO:HI with LO < HI")
    return name.strip(), low, high


def _rule(text: str, there: Sequence[str]) -> tuple[Rule, tuple[str, ...]]:
    """RULE:PASS:PASS…"""
    name, *compared = (part.strip() for part in text.split(":"))
    rule = pairs.load(name)
    if len(compared) < 2:
        raise UsageError(f"--pairs {text}: not RULE:PASS:PASS, such as {name}:answer:base")
    if there and (missing := [each for each in compared if each not in there]):
        raise UsageError(f"--pairs {text}: no rows of pass {missing[0]}; there are {', '.join(there)}")
    return rule, tuple(compared)


def _band(text: str) -> tuple[float, float]:
    """LO:HI, 0 ≤ LO ≤ HI ≤ 1."""
    low, _, high = text.partition(":")
    try:
        band = float(low), float(high)
    except ValueError:
        band = math.nan, math.nan
    if not 0 <= band[0] <= band[1] <= 1:
        raise UsageError(f"--keep {text}: not LO:HI with 0 ≤ LO ≤ HI ≤ 1, such as 0.3:0.8")
    return band
