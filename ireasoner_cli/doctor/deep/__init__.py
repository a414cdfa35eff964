"""The acceptance of a machine: the learner and the engine at work, each step a line with its figure.

On a GPU the learner is held to float32 on the CPU with Qwen2.5-VL-7B's widths and two layers; on a CPU, and for the
engine where no model is named, the demonstration's checkpoint is enough. Nothing is downloaded for it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from ireasoner_cli.doctor.deep.guard import guarded
from ireasoner_cli.doctor.finding import Finding
from stages.models.finding import find_model
from stages.models.loading import prepare_transformers

CHECKPOINT = Path(__file__).parents[2] / "demo" / "model"


def steps(name: str | None) -> Iterator[Finding]:
    """`name`: of the model that is sampled from and learned; the demonstration's where None."""
    prepare_transformers()
    import torch

    from ireasoner_cli.doctor.deep import engine, learner

    with tempfile.TemporaryDirectory(prefix="ireasoner-doctor-") as scratch:
        folder = Path(scratch)
        model = find_model(name or str(CHECKPOINT))
        narrow = learner.wide_model(folder / "wide") if torch.cuda.is_available() else find_model(str(CHECKPOINT))
        for about, step in (
            ("attention", lambda: learner.attention(narrow)),
            ("repeatable", lambda: learner.repeatable(narrow, folder)),
            ("gradient", lambda: learner.gradient(narrow, folder)),
            ("a step", lambda: learner.timed_step(model)),
        ):
            yield guarded(about, step)
        yield from engine.steps(model, folder)
