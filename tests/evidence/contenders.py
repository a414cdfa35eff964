"""Signals without labels, and controls, each at several learning rates: what a signal does beside how far it goes.

A row is called `CONTENDER @ LEARNING RATE`. How good contenders are is read at one distance from the base model,
between their rows (`results.at_distance`): no two are compared at one learning rate.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ireasoner_cli.demo import world

AT = " @ "
Options = Mapping[str, Any]  # of each command, as in ireasoner.toml; of `pass`, a list
Contenders = Mapping[str, tuple[Options, Sequence[float]]]  # what is changed, and at which learning rates
USUAL, FARTHER = (2.5e-4, 6e-4), (2.5e-4, 6e-4, 1e-3)
ITERATIONS, GROUPS = 20, 48  # of the shorter runs

ANSWER: Options = {"score": {"reward": "answer"}}
MAJORITY: Options = {"score": {"solver-reward": "majority"}}
KNOWN: Options = {"score": {"solver-reward": "majority", "target": "known"}}
# The world's own questions, and their true answers, which `score --target known` alone looks at.
GIVEN: Options = {"propose": {"questions": "question", "target": "target"}, "update": {"roles": "solver"}}
# A second look, which leaves readable what a chart says.
VIEWED: Options = {"pass": [{"name": "view", "view": "jitter:0.1,0.01|rotate:1.5"}]}
# One more rollout, of the most likely token each time: no vote of a few samples was right more often.
SURE: Options = {"pass": [{"name": "greedy", "samples": 1, "temperature": 0.0}]}
TAUGHT: Options = {"pass": [{"name": "teacher", "adapter": "teacher"}]}
# What the second checkpoint is asked of a question, and answers by a number in <score>.
VALID = "{question}\nDoes the chart answer this?"
JUDGED: Options = {"name": "valid", "adapter": "base", "samples": 1, "temperature": 0.0, "prompt": VALID}
KEPT: Options = {
    "proposer-reward": "0.3*tent + 0.5*valid + 0.2*balance",
    "kinds": ", ".join(world.WORDINGS),
}


def _with(options: Options, **changes: Any) -> Options:
    """`options`, and what else each command is given."""
    return {**options, **{command: {**options.get(command, {}), **own} for command, own in changes.items()}}


CREDITED: Contenders = {
    "answer": (ANSWER, FARTHER),
    # Its advantages are larger: as far as the others at half their learning rates.
    "credit by vote": (_with(ANSWER, score={"credit": "vote"}), (6e-5, 1.2e-4, 2.5e-4)),
    "credit by branching": (_with(ANSWER, score={"credit": "branching"}), FARTHER),
    "credit by trust": (_with(ANSWER, score={"credit": "trust"}), FARTHER),
    # The step reward has come in when the shorter runs end, as in the ablation.
    "full": ({"score": {"total-steps": ITERATIONS * GROUPS}}, USUAL),
}
CONTROLS: Contenders = {
    # Twice the rollouts: what a signal at half of them has to come to.
    "answer, 10 rollouts": (_with(ANSWER, rollout={"samples": 10}), USUAL),
    "given questions": (_with(MAJORITY, **GIVEN), USUAL),
    "supervised": (_with(KNOWN, **GIVEN), FARTHER),
}
VOTES: Contenders = {
    "majority": (MAJORITY, USUAL),
    "likelihood": (_with(MAJORITY, score={"vote": "likelihood"}), USUAL),
    "weakest token": (_with(MAJORITY, score={"vote": "weakest-token"}), USUAL),
    "weakest token, credit by trust": (_with(MAJORITY, score={"vote": "weakest-token", "credit": "trust"}), FARTHER),
    "greedy answer": ({**_with(MAJORITY, score={"target": "greedy"}), **SURE}, USUAL),
    "two views": ({**_with(MAJORITY, score={"target": "answer+view"}), **VIEWED}, USUAL),
    "two views, harmonic": ({**_with(MAJORITY, score={"target": "answer+view", "pool": "harmonic"}), **VIEWED}, USUAL),
    "teacher": ({**_with(MAJORITY, score={"target": "teacher"}, update={"teacher-decay": 0.98}), **TAUGHT}, USUAL),
}
# What the second checkpoint alone has learned: judging questions, saying of what kind they are, and a puzzle.
ASKING: Contenders = {
    "kept Proposer": ({**_with(ANSWER, score=KEPT), "pass": [JUDGED]}, USUAL),
    "rotation": (_with(KNOWN, propose={"task": "rotation"}, update={"roles": "solver"}), USUAL),
}


def rows(*contenders: Contenders) -> dict[str, Options | None]:
    """The base, and every contender at each of its learning rates."""
    strides = {
        f"{name}{AT}{rate:g}": _with(options, update={"lr": rate})
        for group in contenders
        for name, (options, rates) in group.items()
        for rate in rates
    }
    return {"base": None, **strides}
