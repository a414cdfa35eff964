"""SIGKILL at random moments of each stage, then the same command again: what is visible is whole or absent, and the
end is that of an uninterrupted run, byte for byte.

    python -m tests.campaigns.kill --kills 200
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.campaigns.world import Stage, contents, in_child, lay_out


def campaign(name: str, stage: Stage, kills: int, seed: int) -> dict[str, float | int]:
    """Kills `stage` so many times. Half the time it is run to its end after a kill, half the time it is killed again
    while it takes up what the last one left."""
    rng = random.Random(f"{seed}:{name}")
    expected, out = contents(Path("whole") / name), Path("again") / name
    started = time.monotonic()
    took = in_child(lambda: stage(Path("timing") / name)).seconds
    counts = {"kills": 0, "runs_to_the_end": 0, "torn": 0, "different": 0, "failed": 0}
    while counts["kills"] < kills:
        outcome = in_child(lambda: stage(out), kill_after=rng.uniform(0, took))
        counts["kills"] += outcome.killed
        counts["failed"] += not outcome.killed and outcome.status != 0
        visible = contents(out)
        counts["torn"] += visible is not None and visible != expected
        if rng.random() < 0.5 or not outcome.killed:
            counts["failed"] += in_child(lambda: stage(out)).status != 0
            counts["runs_to_the_end"] += 1
            left_over = [entry.name for entry in out.parent.iterdir() if entry != out]
            counts["different"] += contents(out) != expected or bool(left_over)
            shutil.rmtree(out.parent)
    shutil.rmtree(out.parent, ignore_errors=True)
    return {**counts, "seconds": round(time.monotonic() - started, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of each stage")
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="*", help="outputs, such as rollouts.parquet; all by default")
    options = parser.parse_args()
    bad: float = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        stages = lay_out(options.groups)
        for name, stage in stages.items():
            assert in_child(partial(stage, Path("whole") / name)).status == 0, name
        for name, stage in stages.items():
            if not options.stages or name in options.stages:
                counts = campaign(name, stage, options.kills, options.seed)
                print(json.dumps({"output": name, **counts}), flush=True)
                bad += counts["torn"] + counts["different"] + counts["failed"]
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
