"""A tiny model, a pool and one uninterrupted iteration, for campaigns that fork a process that has imported
everything: starting Python and torch anew costs seconds."""

import os
import random
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
from stages.learning.learner import UpdateParams
from stages.propose import propose
from stages.rollout import rollout
from stages.score import ScoreParams, score
from stages.update import update
from stages.vlm import prepare_transformers
from tests import chain
from tests.conftest import build_tiny_model, draw

Stage = Callable[[Path], object]


def import_everything() -> None:
    """Runs nothing: autograd's threads would not survive a fork."""
    prepare_transformers()
    import peft  # noqa: F401
    from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl, processing_qwen2_5_vl  # noqa: F401


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
    """Makes model, pool, benchmark and a whole iteration in `whole/` of the working directory; returns each stage as
    a function of its output, on the inputs of that iteration."""
    shards.GROUPS_PER_CHUNK = stages.score.GROUPS_PER_BLOCK = 2  # something between the beginning and the end
    for index in range(8):
        draw(Path(f"pool/{index}.png"), index)
    assert in_child(lambda: build_tiny_model(Path("model"))).status == 0
    whole = Path("whole")
    whole.mkdir()
    questions = [
        {"id": str(i), "image": {"bytes": None, "path": f"pool/{i % 8}.png"}, "question": "How many?", "answers": ["3"]}
        for i in range(groups)
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(questions))
    return {
        "questions.parquet": lambda out: propose(
            Path("pool"), chain.fake(max_tokens=128), groups, model="model", out=out
        ),
        "rollouts.parquet": lambda out: rollout([whole / "questions.parquet"], chain.fake(), out=out),
        "scored.parquet": lambda out: score([whole / "rollouts.parquet"], ScoreParams(no_warmup=True), out=out),
        "policy": lambda out: update(
            [whole / "scored.parquet"], UpdateParams(lr=1e-3, limit=12), out=out, checkpoint_seconds=0
        ),
        "eval.parquet": lambda out: evaluate(
            [Path("benchmark.parquet")], chain.fake(), policy=whole / "policy", model="model", out=out
        ),
    }


def contents(path: Path) -> dict[str, bytes] | bytes | None:
    """What is visible at `path`: a file, a folder, or nothing."""
    if path.is_dir():
        return chain.file_bytes(path)
    return path.read_bytes() if path.exists() else None


def shuffled_seed(seed: int, name: str) -> random.Random:
    return random.Random(f"{seed}:{name}")
