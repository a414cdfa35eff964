"""What is run: how long, on what, and how the rows differ."""

from collections.abc import Mapping
from dataclasses import dataclass

from ireasoner_cli.demo import world
from tests.evidence import contenders
from tests.evidence.contenders import GROUPS, ITERATIONS, Options


@dataclass(frozen=True)
class Settings:
    """One experiment: every row is a run of its own, over the same images and questions as the others of its seed.

    options: what every row runs with; rows: what each has instead, None for the checkpoint as it is. home: the levels
    of the pool. second: with the second checkpoint in place of the demonstration's. begun: the settings whose runs
    these go on with, once those are evaluated.
    """

    iterations: int
    pool: int  # images without labels
    questions: int  # held out, a quarter of each level
    options: Options
    rows: Mapping[str, Options | None]
    home: tuple[int, ...] = world.HOME
    second: bool = False
    begun: str | None = None

    def of(self, row: str) -> Options:
        """The options of a row."""
        changes = dict(self.rows[row] or {})
        passes = {"pass": changes.pop("pass")} if "pass" in changes else {}
        commands = dict.fromkeys([*self.options, *changes])
        return {
            **{command: {**self.options.get(command, {}), **changes.get(command, {})} for command in commands},
            **passes,
        }

    def asks(self, row: str) -> bool:
        """Whether the questions of a row are sampled or drawn, and not given."""
        return "questions" not in self.of(row)["propose"]


def _update(**options: float | str) -> Options:
    """What differs only in options of `update`."""
    return {"update": {name.replace("_", "-"): value for name, value in options.items()}}


ROWS: dict[str, Options | None] = {
    "base": None,
    "answer": {"score": {"reward": "answer"}},
    # The control: a step reward takes the policy farther from the base model, and so does a higher learning rate.
    "answer-faster": {"score": {"reward": "answer"}, **_update(lr=3e-4)},
    "step": {"score": {"reward": "step"}},
    "full": {},
    "no-warmup": {"score": {"no-warmup": True}},
    "no-decay": {"score": {"no-decay": True}},
    "no-density": {"score": {"no-density": True}},
    "hidden": {"score": {"embedding": "hidden"}},
}

OPTIONS: Options = {
    "propose": {"groups": GROUPS, "max-tokens": 48},
    "rollout": {"samples": 5, "max-tokens": 144},
    "score": {"total-steps": ITERATIONS * GROUPS},
    "update": {"lr": 2.5e-4, "kl-start": 0.05, "kl-min": 0.05, "groups-per-step": 4, "advantage": "mean"},
    "eval": {"max-tokens": 144},
}
# The full reward over more iterations, one thing at a time away from where the sweep starts.
SWEEP_ITERATIONS = 30
SWEEP_OPTIONS: Options = {**OPTIONS, "score": {"total-steps": SWEEP_ITERATIONS * GROUPS}}
SWEEP: dict[str, Options | None] = {
    "base": None,
    "the start": {},
    "lr 1e-4": _update(lr=1e-4),
    "lr 5e-4": _update(lr=5e-4),
    "lr 1e-3": _update(lr=1e-3),
    "1 group a step": _update(groups_per_step=1),
    "16 groups a step": _update(groups_per_step=16),
    "N = 3": {"rollout": {"samples": 3}},
    "N = 10": {"rollout": {"samples": 10}},
    "moving-average baseline": _update(advantage="ema"),
    "Proposer as it is": _update(proposer_every=10**9),
    "Proposer with every group": _update(proposer_every=1),
    "no KL floor": _update(kl_start=1e-3, kl_min=1e-8),
    "KL floor 0.2": _update(kl_start=0.2, kl_min=0.2),
}

GPU_OPTIONS: Options = {
    **OPTIONS,
    "propose": {"groups": 128, "max-tokens": 48},
    "score": {"total-steps": 100 * 128},
    "update": {**OPTIONS["update"], "groups-per-step": 8},
}

# Signals that might see more than agreement, on charts of which some hold more than the checkpoint has learned to read:
# greedy answers, too, can get better there. The longer runs are the shorter ones gone on with.
LONG = 3 * ITERATIONS
SIGNALS = contenders.rows(contenders.CREDITED, contenders.CONTROLS, contenders.VOTES)
SIGNAL_OPTIONS: Options = {
    **OPTIONS,
    "rollout": {"samples": 5, "max-tokens": 200},
    "score": {"total-steps": LONG * GROUPS},
    "eval": {"max-tokens": 200},
}
# The second checkpoint says in more words what it says.
PROSE = {**SIGNALS, **contenders.rows(contenders.ASKING)}
PROSE_OPTIONS: Options = {
    **SIGNAL_OPTIONS,
    "rollout": {"samples": 5, "max-tokens": 256},
    "eval": {"max-tokens": 256},
}

EXPERIMENTS = {
    "cpu": Settings(ITERATIONS, 2048, 480, OPTIONS, ROWS),
    "gpu": Settings(100, 16384, 1920, GPU_OPTIONS, ROWS),
    "sweep": Settings(SWEEP_ITERATIONS, 2048, 480, SWEEP_OPTIONS, SWEEP),
    "signal": Settings(ITERATIONS, 2048, 480, SIGNAL_OPTIONS, SIGNALS, world.CROWDED),
    "signal-60": Settings(LONG, 2048, 480, SIGNAL_OPTIONS, SIGNALS, world.CROWDED, begun="signal"),
    "prose": Settings(ITERATIONS, 2048, 480, PROSE_OPTIONS, PROSE, world.CROWDED, second=True),
    "prose-60": Settings(LONG, 2048, 480, PROSE_OPTIONS, PROSE, world.CROWDED, second=True, begun="prose"),
}
