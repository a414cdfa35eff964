"""One contender alone, in a process of its own, so that no other's model takes of its memory:

    python -m tests.benchmarks.contest SHAPE CONTENDER FOLDER REPETITIONS

FOLDER holds the shape's model, and the adapter that all start from; what comes of it is printed as JSON.
"""

import contextlib
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from stages.learning import learner as learning
from stages.learning.model import PolicyModel
from stages.models.finding import find_model
from tests.benchmarks import contenders
from tests.benchmarks.learner import say
from tests.benchmarks.measure import GPU, Stopwatch, matrix_rate, timed
from tests.benchmarks.shapes import SHAPES, example

WARM_UPS = 3  # steps: one that counts FLOPs, one that meters memory, one that tells the shares

# Of our step: who does what. What one does within another is its own.
PARTS: tuple[tuple[Any, str, str], ...] = (
    (PolicyModel, "_encoded", "vision"),
    (PolicyModel, "prompts", "prompt"),
    (PolicyModel, "states", "completions"),
    (learning, "loss_terms", "vocabulary"),
    (torch.autograd, "backward", "backward"),
)


def shares(contender: contenders.Ours) -> dict[str, float]:
    """Of a step's time, by its parts; forward passes by what they run, backward as a whole."""
    watch = Stopwatch(finish=torch.cuda.synchronize if GPU else None)
    with contextlib.ExitStack() as patches:
        for owner, name, part in PARTS:
            patches.enter_context(mock.patch.object(owner, name, watch.timing(part, getattr(owner, name))))
        watch.timing("optimizer and the rest", contender.step)(contextlib.nullcontext())
    total = sum(watch.seconds.values())
    return {part: seconds / total for part, seconds in watch.seconds.items()}


def main(shape: str, name: str, folder: Path, repetitions: int) -> dict[str, Any]:
    model, adapter = find_model(str(folder / "model")), folder / "adapter"
    group = example(SHAPES[shape], model)
    before = torch.cuda.memory_allocated() if GPU else 0
    contender = contenders.MAKERS[name](model, group, adapter, repetitions + WARM_UPS)
    held = torch.cuda.memory_allocated() - before if GPU else 0
    figures = timed(contender, repetitions, say)
    own = shares(contender) if isinstance(contender, contenders.Ours) else {}
    finite = all(math.isfinite(float(tensor.detach().sum())) for tensor in contender.trained())
    rate = matrix_rate()
    return asdict(figures) | {"held": held, "shares": own, "finite": finite, "rate": rate}


if __name__ == "__main__":
    made = main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(made))
