"""The rewards that were asked for, read and looked up: what `block` then applies."""

import math
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.contract import Metadata
from stages.errors import UsageError
from stages.parameters.score import ScoreParams
from stages.rewards import custom, expression, proposer, terms, votes
from stages.rewards.custom import CustomTerm
from stages.rewards.proposer import Term as ProposerTerm

OWN = "own_terms"  # under which a shard records the user's own terms
WITH_COLUMNS = {"answer", "step"}  # terms whose columns every scored table has


@dataclass(frozen=True)
class Chosen:
    """solver: weight of each term of the Solver's reward; None for iReasoner's, the answer and the steps by schedule.
    proposer: likewise, of the Proposer's. own: the user's own terms by name. keep: LO and HI of the vote."""

    params: ScoreParams
    solver: dict[str, float] | None
    proposer: dict[str, float]
    solver_terms: dict[str, terms.Term]
    proposer_terms: dict[str, ProposerTerm]
    vote: votes.Vote
    keep: tuple[float, float] | None = None
    own: dict[str, CustomTerm] = field(default_factory=dict)

    @staticmethod
    def of(params: ScoreParams) -> "Chosen":
        """Raises UsageError for rewards that are not there, or do not go together."""
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
        used = {*(solver or ()), *of_proposer}
        if idle := [name for name in names if name not in used]:
            raise UsageError(f"--term: {idle[0]} is neither in --solver-reward nor in --proposer-reward")
        return Chosen(
            params,
            solver,
            of_proposer,
            {name: terms.load(name) for name in [*WITH_COLUMNS, *(solver or ())] if name not in names},
            {name: proposer.load(name) for name in of_proposer if name not in names},
            votes.load(params.vote),
            None if params.keep is None else _band(params.keep),
            {term.name: term for term in own},
        )

    def check_sampling(self, rollouts: Metadata) -> None:
        """Raises UsageError where stored log-probabilities are asked for that are not the policy's own."""
        needed = ["--vote likelihood"] if self.params.vote == "likelihood" else []
        needed += ["the term confidence"] if "confidence" in (self.solver or ()) else []
        sampled = rollouts.stage_params("rollout")
        if needed and (sampled.get("temperature"), sampled.get("top_p")) != (1.0, 1.0):
            temperature, top_p = (sampled.get(name, "unknown") for name in ("temperature", "top_p"))
            raise UsageError(
                f"{needed[0]} needs the log-probabilities of temperature 1 and top-p 1, and these rollouts were "
                f"sampled at temperature {temperature}, top-p {top_p}"
            )

    @property
    def columns(self) -> pa.Schema:
        """One for each term beside the answer's and the steps', before its weight."""
        names = [name for name in self.solver or () if name not in WITH_COLUMNS]
        names += [name for name in self.proposer if self.proposer != {"entropy": 1.0} and name not in names]
        names += ["question_share"] if self.params.question_share else []
        return pa.schema([(f"r_{name}", pa.float64()) for name in names])

    def recorded(self) -> dict[str, Any]:
        """What a shard records of the user's own terms."""
        return {OWN: {name: term.sha256 for name, term in self.own.items()}} if self.own else {}


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
