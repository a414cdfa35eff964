"""What the passes of a shard are to the rewards: which are rewarded, whose answers are right, who speaks of whom."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.contract import ANSWER
from stages.errors import UsageError
from stages.parameters.score import ScoreParams
from stages.prompts import QUESTION, placeholders

KNOWN = "known"
ABOUT_ROWS = ("reader", "children", "verdict")  # terms that look at the rows made of a row
ABOUT_QUESTIONS = "valid"  # the Proposer's, which looks at rows about the question
DESCRIPTION = frozenset({"description"})  # what a reader was told, where its prompt is not recorded


@dataclass(frozen=True)
class Passes:
    """rewarded: whose rows are. target: of those passes that have not their own, whose dominant answer is right (of
    A+B, that of both), or KNOWN. parent: of a pass that is made of another's rows, which one. told: the tags of the
    parent in the prompt of a pass. about: of each term that was asked for, the passes that it looks at."""

    rewarded: tuple[str, ...] = (ANSWER,)
    target: Mapping[str, str] = field(default_factory=dict)
    parent: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, Collection[str]] = field(default_factory=dict)
    about: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def electing(self) -> list[str]:
        """The passes by whose vote rows are judged: the targets, and what is rewarded without one."""
        return _judges(self.target.get(name, name) for name in self.rewarded)

    @property
    def several(self) -> bool:
        """Whether some target is the vote of several passes."""
        return any(len(together(target)) > 1 for target in self.target.values())

    @property
    def held(self) -> list[str]:
        """The passes that are held to something else than their own vote."""
        return [name for name, target in self.target.items() if target != name]

    @property
    def to_known(self) -> bool:
        """Whether some are held to the answer that is known."""
        return KNOWN in self.target.values()

    @staticmethod
    def of(
        params: ScoreParams, there: Sequence[str], recorded: Mapping[str, Mapping[str, Any]], terms: Collection[str]
    ) -> "Passes":
        """Of the passes that are `there`, in order, with the parameters of those that are recorded.

        Raises UsageError for one that is asked for and is not there, and for `terms` that have nothing to look at.
        """
        parent, told = {}, {}
        for name in there:
            made = recorded.get(name, {})
            of = made["of"] if "of" in made else there[0]  # a tool that does not say which has begun with the parents
            if of is not None and of != name:
                parent[name] = of
                told[name] = placeholders(made["prompt"]) - {QUESTION} if "prompt" in made else DESCRIPTION
        rewarded = tuple(name.strip() for name in params.rewarded.split(","))
        target = _targets(params.target, rewarded)
        wanted = [*rewarded, *_judges(target.values())]
        if twice := next((each for each in target.values() if len({*together(each)}) < len(together(each))), None):
            raise UsageError(f"--target {twice}: names a pass more than once")
        missing = [name for name in wanted if name not in there]
        if there and missing and not (params.pairs and params.rewarded == ANSWER):
            raise UsageError(f"no rows of pass {missing[0]}; there are {', '.join(there)}")
        about = {}
        for term in terms:
            if term in ABOUT_ROWS:
                about[term] = [_looked_at(term, name, parent) for name in rewarded if name in parent.values()]
                if there and not about[term]:
                    raise UsageError(
                        f"the term {term} looks at rows made of {rewarded[0]} (rollout --of), and has none"
                    )
            elif term == ABOUT_QUESTIONS:
                alone = [name for name in there if name not in parent and name not in wanted]
                about[term] = [term] if term in there else alone
                if there and len(about[term]) != 1:
                    raise UsageError(f"the term {term} looks at one pass about the question; call it {term}")
        return Passes(rewarded, target, parent, told, about)


def together(target: str) -> list[str]:
    """The passes whose vote a target is, A of `A` and A, B of `A+B`."""
    return [name.strip() for name in target.split("+")]


def _judges(targets: Iterable[str]) -> list[str]:
    """The passes whose votes the targets are."""
    return [name for target in targets if target != KNOWN for name in together(target)]


def _targets(text: str | None, rewarded: Sequence[str]) -> dict[str, str]:
    """TARGET of all the passes that are rewarded, or PASS=TARGET,…"""
    if text is None:
        return {}
    if "=" not in text:
        return dict.fromkeys(rewarded, text.strip())
    pairs = [[part.strip() for part in each.split("=")] for each in text.split(",")]
    if any(len(pair) != 2 or pair[0] not in rewarded for pair in pairs):
        raise UsageError(f"--target {text}: not PASS, known, or PASS=TARGET,… of passes that are rewarded")
    return {name: target for name, target in pairs}


def _looked_at(term: str, name: str, parent: Mapping[str, str]) -> str:
    """The pass made of the pass `name` that `term` looks at."""
    made = [child for child, of in parent.items() if of == name]
    if len(made) > 1 and term not in made:
        raise UsageError(
            f"the term {term} looks at one pass made of {name}, and there are {', '.join(made)}; call it {term}"
        )
    return term if term in made else made[0]
