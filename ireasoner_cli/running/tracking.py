"""A run's figures sent to an experiment tracker, under the names of the Parquet columns. Never required."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ireasoner_cli.lineage import settings
from ireasoner_cli.running.figures import Figures
from stages import shards
from stages.errors import UsageError
from stages.policy import read_state

Track = Callable[[Figures], None]


def no_tracker(figures: Figures) -> None:
    """Sends nothing."""


@contextmanager
def tracking(tracker: str | None, out: Path, say: Callable[[str], None], group: str | None = None) -> Iterator[Track]:
    """With `tracker` "wandb": what to call with the figures of each iteration; what it has had is not sent again.

    A run that is gone on with is the same run to the tracker; `WANDB_MODE=offline` keeps all in OUT/wandb. Runs of one
    `group`, which differ in their seeds alone, are shown together.

    Raises UsageError where the tracker is not installed or cannot begin. Later troubles are only said: they are no
    reason to lose a run.
    """
    if tracker is None:
        yield no_tracker
        return
    os.environ.setdefault("WANDB_SILENT", "true")  # stdout carries results, and stderr our own display
    try:
        import wandb
    except ImportError as error:
        raise UsageError("--track wandb needs wandb: pip install 'ireasoner[track]'") from error
    folder = out / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    identity, sent = folder / "run-id", folder / "sent"
    if not identity.is_file():
        shards.write_file(identity, uuid.uuid4().hex[:12].encode())
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ireasoner"),
            name=out.resolve().name,
            group=group,
            id=identity.read_text().strip(),
            resume="allow",
            dir=str(out),
            settings=wandb.Settings(console="off"),
        )
    except Exception as error:
        raise UsageError(f"wandb cannot begin ({error}); `wandb login`, or WANDB_MODE=offline") from error
    run.define_metric("*", step_metric="step")
    configured, last = False, int(sent.read_text()) if sent.is_file() else 0

    def track(figures: Figures) -> None:
        nonlocal configured, last
        try:
            if not configured:
                run.config.update(configuration(out), allow_val_change=True)
                configured = True
            if figures.step > last:
                run.log({name: value for name, value in figures.to_json().items() if value is not None})
                last = figures.step
                shards.write_file(sent, str(last).encode())
        except Exception as error:
            say(f"wandb: {type(error).__name__}: {error}")

    try:
        yield track
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def configuration(out: Path) -> dict[str, Any]:
    """How the run is made, stage by stage, as its first policy records it."""
    lineage = read_state(out / "it0001" / "policy").lineage
    return {"model": lineage.model.name, "seed": lineage.seed, **settings(lineage)}
