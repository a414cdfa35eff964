"""A tiny model, a pool and the five stages over them, for campaigns that fork a process that has imported
everything: starting Python and torch anew costs seconds."""

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa

import stages.score
from stages import shards
from stages.evaluate import evaluate
from stages.learning.learner import Learner, UpdateParams
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain
from tests.conftest import build_tiny_model, draw

Stage = Callable[[Path], object]


@dataclass(frozen=True)
class Outcome:
    """How a forked child ended: killed, or by itself (0 is well) after so many seconds."""

    killed: bool
    status: int
    seconds: float


def in_child(work: Callable[[], object], kill_after: float | None = None) -> Outcome:
    """Runs `work` in a forked child, and kills it with SIGKILL after so many seconds."""
    started = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)  # also where it has ended: it is not waited for yet
    _, status = os.waitpid(child, 0)
    return Outcome(os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status), time.monotonic() - started)


def lay_out(groups: int) -> dict[str, Stage]:
    """Makes model, pool and benchmark in the working directory; returns each stage, by the name of its output, as a
    function of where to write it. Each reads from `whole/` what the ones before it wrote there."""
    shards.output.GROUPS_PER_CHUNK = stages.score.GROUPS_PER_BLOCK = 2  # something between the beginning and the end
    for index in range(8):
        draw(Path(f"pool/{index}.png"), index)
    build_tiny_model(Path("model"))
    # Imports all that learning needs, but takes no step: autograd's threads would not survive a fork.
    Learner(find_model("model"), UpdateParams(), seed=0)
    importlib.import_module("torch._dynamo")
    whole = Path("whole")
    whole.mkdir()
    questions = [
        {"id": str(i), "image": {"bytes": None, "path": f"pool/{i % 8}.png"}, "question": "How many?", "answers": ["3"]}
        for i in range(groups)
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(questions))
    return {
        "questions.parquet": lambda out: propose(
            Path("pool"),
            ProposeParams(groups=groups, sampling=chain.fake(max_tokens=128)),
            Call(model="model", out=out),
        ),
        "rollouts.parquet": lambda out: rollout(
            [whole / "questions.parquet"], RolloutParams(sampling=chain.fake()), Call(out=out)
        ),
        "scored.parquet": lambda out: score([whole / "rollouts.parquet"], ScoreParams(no_warmup=True), Call(out=out)),
        "policy": lambda out: update(
            [whole / "scored.parquet"], UpdateParams(lr=1e-3), Call(limit=12, out=out), checkpoint_seconds=0
        ),
        "eval.parquet": lambda out: evaluate(
            [Path("benchmark.parquet")],
            EvalParams(sampling=chain.fake()),
            Call(policy=whole / "policy", model="model", out=out),
        ),
    }


def contents(path: Path) -> dict[str, bytes] | bytes | None:
    """What is visible at `path`: a file, a folder, or nothing."""
    if path.is_dir():
        return chain.file_bytes(path)
    return path.read_bytes() if path.exists() else None
