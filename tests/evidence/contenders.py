"""Signals without labels, and controls, each at several learning rates: what a signal does beside how far it goes.

A row is called `CONTENDER @ LEARNING RATE`. How good contenders are is read at one distance from the base model,
between their rows (`results.at_distance`): no two are compared at one learning rate.
"""

from collections.abc import Mapping
from typing import Any

from ireasoner_cli.demo import world

AT = " @ "
Options = Mapping[str, Any]  # of each command, as in ireasoner.toml; of `pass`, a list

ANSWER: Options = {"score": {"reward": "answer"}}
MAJORITY: Options = {"score": {"solver-reward": "majority"}}
# The world's own questions, and their true answers, which `score --target known` alone looks at.
GIVEN: Options = {"propose": {"questions": "question", "target": "target"}, "update": {"roles": "solver"}}
# Looks that leave readable what a chart says.
VIEW = "jitter:0.1,0.01|rotate:1.5"
# What the second checkpoint is asked of a question, and answers by a number in <score>.
VALID = "{question}\nDoes the chart answer this?"
KINDS = ", ".join(world.WORDINGS)


def _with(options: Options, **changes: Any) -> Options:
    """`options`, and what else each command is given."""
    return {**options, **{command: {**options.get(command, {}), **own} for command, own in changes.items()}}


def _credit(name: str) -> Options:
    return _with(ANSWER, score={"credit": name})


def _by(pass_: Mapping[str, Any], update: Mapping[str, Any] | None = None, **score: Any) -> Options:
    """Right is what another pass says, or several."""
    options = _with(MAJORITY, score=score, **({"update": update} if update else {}))
    return {**options, "pass": [pass_]}


_VIEW = {"name": "view", "view": VIEW}
CREDITED: dict[str, tuple[Options, tuple[float, ...]]] = {
    "answer": (ANSWER, (2.5e-4, 6e-4, 1e-3)),
    "credit by vote": (_credit("vote"), (6e-5, 1.2e-4, 2.5e-4)),
    "credit by branching": (_credit("branching"), (2.5e-4, 6e-4, 1e-3)),
    "credit by trust": (_credit("trust"), (2.5e-4, 6e-4, 1e-3)),
    "full": ({}, (2.5e-4, 6e-4)),
}
CONTROLS: dict[str, tuple[Options, tuple[float, ...]]] = {
    "given questions": (_with(GIVEN, **MAJORITY), (2.5e-4, 6e-4)),
    "supervised": (_with(GIVEN, score={**MAJORITY["score"], "target": "known"}), (2.5e-4, 6e-4)),
}
VOTES: dict[str, tuple[Options, tuple[float, ...]]] = {
    "majority": (MAJORITY, (2.5e-4, 6e-4)),
    "likelihood": (_with(MAJORITY, score={"vote": "likelihood"}), (2.5e-4, 6e-4)),
    "two views": (_by(_VIEW, target="answer+view"), (2.5e-4, 6e-4)),
    "two views, harmonic": (_by(_VIEW, target="answer+view", pool="harmonic"), (2.5e-4, 6e-4)),
    "teacher": (
        _by({"name": "teacher", "adapter": "teacher"}, {"teacher-decay": 0.98}, target="teacher"),
        (2.5e-4, 6e-4),
    ),
}
# What the second checkpoint alone has learned: judging questions, saying of what kind they are, and puzzles.
_VALID = {"name": "valid", "adapter": "base", "samples": 1, "temperature": 0.0, "prompt": VALID}
_KEPT = {"proposer-reward": "0.3*tent + 0.5*valid + 0.2*balance", "kinds": KINDS}
_KNOWN = {**MAJORITY["score"], "target": "known"}
ASKING: dict[str, tuple[Options, tuple[float, ...]]] = {
    "kept Proposer": ({"score": {**ANSWER["score"], **_KEPT}, "pass": [_VALID]}, (2.5e-4, 6e-4)),
    "rotation": ({"propose": {"task": "rotation"}, "score": _KNOWN, "update": {"roles": "solver"}}, (2.5e-4, 6e-4)),
}


def rows(*contenders: Mapping[str, tuple[Options, tuple[float, ...]]]) -> dict[str, Options | None]:
    """The base, and every contender at each of its learning rates."""
    strides = {
        f"{name}{AT}{rate:g}": _with(options, update={"lr": rate})
        for group in contenders
        for name, (options, rates) in group.items()
        for rate in rates
    }
    return {"base": None, **strides}
