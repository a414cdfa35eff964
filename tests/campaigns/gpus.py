"""What a machine's GPUs do with `run`, layout by layout, measured: an hour on eight of them. Prints a Markdown table.

    python -m tests.campaigns.gpus --images pool/ --model Qwen/Qwen2.5-VL-7B-Instruct
    python -m tests.campaigns.gpus --small

Of each layout a few iterations are run and timed by when their files appeared; the first bears the start of engines and
learners, the others' median is taken for all that are to come. `--small`: on a CPU, the fake sampler, two workers and a
tiny model.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TURNS, SET = "0.92", "IREASONER_{}_GPU_MEMORY_UTILIZATION"


@dataclass(frozen=True)
class Layout:
    """How many `workers` sample `groups` an iteration, and learn from so many `per_step`; with `turns` the learners
    sleep while they sample. `torchrun`: new processes learn each time."""

    name: str
    workers: int
    groups: int
    per_step: int
    turns: bool = False
    torchrun: bool = False

    def settings(self) -> dict[str, str]:
        """As variables."""
        share = {SET.format(stage): TURNS for stage in ("PROPOSE", "ROLLOUT")} if self.turns else {}
        return {"IREASONER_UPDATE_GROUPS_PER_STEP": str(self.per_step), **share}


@dataclass(frozen=True)
class Times:
    """Seconds of one iteration: of propose and rollout, of update, of what else there is."""

    sampling: float
    learning: float
    rest: float

    @property
    def whole(self) -> float:
        return self.sampling + self.learning + self.rest


def layouts(workers: int, groups: int) -> list[Layout]:
    ranks = min(workers, groups)
    return [
        Layout("one GPU", 1, groups, 1),
        Layout(f"{workers} engines, one learner (groups-per-step 1)", workers, groups, 1),
        Layout(f"{workers} engines, a new torchrun of {ranks} each time", workers, groups, ranks, True, torchrun=True),
        Layout(f"{workers} workers, learners in them, in turns", workers, groups, ranks, True),
        Layout("the same, all resident", workers, groups, ranks),
        Layout("the same, iterations four times as large", workers, 4 * groups, ranks),
    ]


def ireasoner(words: list[str], layout: Layout, processes: int = 1) -> float:
    """Seconds of a command; raises CalledProcessError."""
    alone = [sys.executable, "-m", "ireasoner_cli"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*together, "-m", "ireasoner_cli"] if processes > 1 else alone
    started = time.monotonic()
    subprocess.run([*command, *words], env={**os.environ, **layout.settings()}, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def times(folder: Path, began: float) -> Times:
    """Of the iteration in `folder`, which began then, by when its files appeared."""
    names = ("rollouts.parquet", "scored.parquet", "policy/state.json")
    rolled, scored, learned = ((folder / name).stat().st_mtime for name in names)
    return Times(rolled - began, learned - scored, scored - rolled)


def measured(layout: Layout, images: str, iterations: int, words: list[str]) -> list[Times]:
    """Each iteration of a run in a folder of its own."""
    out = Path(layout.name.replace(" ", "-"))
    run = ["run", "--images", images, "--out", str(out), "--groups", str(layout.groups), *words]
    began = time.time()
    ireasoner([*run, "--iterations", str(iterations), "--workers", str(layout.workers)], layout)
    found = []
    for number in range(1, iterations + 1):
        found.append(times(out / f"it{number:04d}", began))
        began = (out / f"it{number:04d}" / "policy" / "state.json").stat().st_mtime
    if layout.torchrun:
        last = out / f"it{iterations:04d}"
        before = ["--policy", str(out / f"it{iterations - 1:04d}" / "policy")]
        update = ["update", str(last / "scored.parquet"), *before, "--out", str(out / "anew")]
        anew = ireasoner(update, layout, layout.per_step)
        found = [Times(each.sampling, anew, each.rest) for each in found]
    return found


def row(layout: Layout, found: list[Times], images: int) -> str:
    """What all `images` would take, a group each: the first iteration as it was, the others as their median."""
    later = found[1:] or found
    count = max(1, round(images / layout.groups))
    sampling, learning, rest = (
        count * statistics.median(getattr(each, part) for each in later) for part in ("sampling", "learning", "rest")
    )
    start = max(0.0, found[0].whole - statistics.median(each.whole for each in later))
    minutes = (sampling + learning + rest + start) / 60
    shape = f"{count} × {layout.groups}"
    return f"| {layout.name} | {shape} | {sampling:.0f} | {learning:.0f} | {rest + start:.0f} | {minutes:.1f} |"


HEAD = "| layout | iterations × groups | sampling, s | learning, s | the rest and the start, s | minutes |\n" + (
    "| --- | --- | ---: | ---: | ---: | ---: |"
)


def small() -> tuple[str, list[str], int, int]:
    """Lays out a tiny world in the working directory: pool, further words, workers and groups."""
    from tests.conftest import build_tiny_model, draw

    build_tiny_model(Path("model"))
    for index in range(8):
        draw(Path(f"pool/{index}.png"), index)
    Path("ireasoner.toml").write_text('sampler = "fake"\nmodel = "model"\n[score]\nno-warmup = true\n')
    return "pool", [], 2, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images")
    parser.add_argument("--model")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--total", type=int, default=2500, help="images of the whole training, as in the paper")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if not (options.small or options.images):
        parser.error("name a pool with --images, or give --small")
    images, workers, groups = options.images and str(Path(options.images).resolve()), options.workers, options.groups
    words = ["--model", options.model] if options.model else []
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        if options.small:
            images, words, workers, groups = small()
        print(HEAD)
        for layout in layouts(workers, groups):
            try:
                print(row(layout, measured(layout, images, options.iterations, words), options.total), flush=True)
            except subprocess.CalledProcessError as error:  # one that does not fit leaves the others their rows
                print(f"| {layout.name} | failed: exit status {error.returncode} | | | | |", flush=True)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.getcwd()
    main()
