"""One file a command: its options, and the call of its stage. Stages are imported when a command runs, so that
help costs nothing."""

from collections.abc import Callable

from ireasoner_cli.commands import evaluate, propose, rollout, score, update
from ireasoner_cli.work import Work

STAGES: dict[str, Callable[..., Work | None]] = {
    "propose": propose.command,
    "rollout": rollout.command,
    "score": score.command,
    "update": update.command,
    "eval": evaluate.command,
}
