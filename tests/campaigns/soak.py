"""Iteration after iteration in one process, with the fake sampler and the tiny learner: memory, open files and the time
of an iteration must not grow.

    python -m tests.campaigns.soak --iterations 500
"""

import argparse
import contextlib
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from stages.learning.learner import UpdateParams
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain
from tests.conftest import build_tiny_model, draw

GROWTH_MIB, SLOWDOWN = 30.0, 1.25  # allowed from the second fifth of the run to the last


def iterate(folder: Path, policy: Path | None) -> Path:
    questions = propose(
        Path("pool"),
        ProposeParams(groups=4, sampling=chain.fake(max_tokens=128)),
        Call(policy=policy, model="model", out=folder / "questions.parquet"),
    )
    rollouts = rollout([questions.path], RolloutParams(samples=3, sampling=chain.fake()), Call(policy=policy))
    scored = score([rollouts.path], ScoreParams(no_warmup=True))
    return update([scored.path], UpdateParams(lr=1e-5), Call(policy=policy)).path


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=500)
    options = parser.parse_args()
    memory: list[float] = []
    files: list[int] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        build_tiny_model(Path("model"))
        for index in range(8):
            draw(Path(f"pool/{index}.png"), index)
        policy: Path | None = None
        for index in range(options.iterations):
            started = time.monotonic()
            last, policy = policy, iterate(Path(f"it{index:04d}"), policy)
            seconds.append(time.monotonic() - started)
            if last:
                shutil.rmtree(last.parent)
            gc.collect()
            memory.append(resident_mib())
            files.append(len(os.listdir("/proc/self/fd")))
    mib, handles, pace = (fifths(values) for values in (memory, files, seconds))
    figures = {"resident_mib": mib, "open_files": handles, "seconds_an_iteration": pace}
    print(json.dumps({"iterations": options.iterations, **figures}))
    # The first fifth, while caches fill, is compared with nothing.
    steady = mib[-1] - mib[1] < GROWTH_MIB and handles[-1] == handles[1] and pace[-1] < SLOWDOWN * pace[1]
    return 0 if steady else 1


def fifths(values: Sequence[float]) -> list[float]:
    """The median of each fifth of the run."""
    size = len(values) // 5
    return [round(median(values[part * size : (part + 1) * size]), 3) for part in range(5)]


if __name__ == "__main__":
    sys.exit(main())
