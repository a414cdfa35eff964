"""SIGKILL at random moments of a command that samples and learns by workers, of one of these, or of an engine, then the
same command again: no process is left, and the end is that of an undisturbed run, byte for byte.

    python -m tests.campaigns.workers --kills 200
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from stages.update import update
from tests.campaigns.forked import install
from tests.campaigns.world import in_child, lay_out

SETTINGS = """
model = "model"
sampler = "fake"

[propose]
groups = {groups}

[score]
no-warmup = true

[update]
lr = 1e-3
limit = 8
groups-per-step = 2
"""
RANKS = 2  # which learn, whatever the number of workers

KILLED = [f"{part}_killed" for part in ("workers", "learners", "engines", "drivers")]
COMMANDS = {
    "run": "run --images pool --out {out} --iterations 1 --benchmark benchmark.parquet",
    "eval": "eval benchmark.parquet --samples 4 --out {out}/eval.parquet",
}


def carry_out(command: str, out: Path, workers: int) -> None:
    """The command in this process. Raises SystemExit where it fails."""
    from ireasoner_cli.app import app

    os.dup2(os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(1, 2)
    words = [*COMMANDS[command].format(out=out).split(), "--workers", str(workers)]
    if code := app(words, prog_name="ireasoner", standalone_mode=False):
        raise SystemExit(code)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def below(driver: int) -> dict[int, str]:
    """The processes of a driver, and whose part in the work they have."""
    at_work = children(driver)
    found = dict.fromkeys(at_work, "workers") | dict.fromkeys(at_work[: RANKS if is_learning() else 0], "learners")
    return found | {engine: "engines" for each in at_work for engine in children(each)} | {driver: "drivers"}


def is_learning() -> bool:
    return any(Path().glob("*/it0001/.policy.partial"))


def exists(pid: int) -> bool:
    """Whether the process is there, and is more than an exit status that somebody is to fetch."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def disturbed(command: str, out: Path, workers: int, rng: random.Random, took: float, kills: int) -> dict[str, int]:
    """Starts the command and kills, at random moments, one of its processes, until it has ended."""
    counts = {**dict.fromkeys(KILLED, 0), "left": 0}
    sys.stdout.flush()
    driver = os.fork()
    if not driver:
        try:
            carry_out(command, out, workers)
        finally:
            os._exit(0)
    known: set[int] = set()
    ended = 0
    while not ended:
        until, in_update = time.monotonic() + rng.uniform(0, took), rng.random() < 0.5
        while not ended and (time.monotonic() < until or (in_update and not is_learning())):
            time.sleep(0.01)
            known |= below(driver).keys()
            ended, _ = os.waitpid(driver, os.WNOHANG)
        if ended or sum(counts.values()) == kills:
            continue
        parts = below(driver)
        part = rng.choice(sorted({*parts.values()}))  # of each kind as many, whatever their number
        victim = rng.choice([each for each in parts if parts[each] == part])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            counts[f"{part}_killed"] += 1
    known.discard(driver)
    deadline = time.monotonic() + 10
    while any(map(exists, known)) and time.monotonic() < deadline:
        time.sleep(0.01)
    counts["left"] = sum(map(exists, known))
    return counts


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--command", choices=COMMANDS, default="run")
    parser.add_argument("--groups", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # who is forked from a process with threads for its matrices waits for them for ever
    rng, started = random.Random(options.seed), time.monotonic()
    totals = {**dict.fromkeys((*KILLED, "left", "runs", "different", "failed"), 0)}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        lay_out(options.groups)
        install()
        update.__defaults__ = (*(update.__defaults__ or ())[:-2], 0.0, None)  # a checkpoint after each step
        Path("ireasoner.toml").write_text(SETTINGS.format(groups=options.groups))
        assert in_child(lambda: carry_out(options.command, Path("one"), RANKS)).status == 0
        whole = in_child(lambda: carry_out(options.command, Path("timing"), 2))
        out = Path("again")
        while left := options.kills - sum(totals[name] for name in KILLED):
            for name, count in disturbed(options.command, out, rng.choice([2, 3]), rng, whole.seconds, left).items():
                totals[name] += count
            if rng.random() < 0.5 or sum(totals[name] for name in KILLED) == options.kills:
                totals["failed"] += in_child(lambda: carry_out(options.command, out, 2)).status != 0
                totals["different"] += files(out) != files(Path("one"))
                totals["runs"] += 1
                print(json.dumps(totals), file=sys.stderr)
                shutil.rmtree(out, ignore_errors=True)  # not there, where the command has failed
        log = Path("log").read_text()
    bad = totals["left"] + totals["different"] + totals["failed"]
    if bad:
        print(log, file=sys.stderr)
    print(json.dumps({**totals, "seconds": round(time.monotonic() - started, 1)}))
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["PYTHONPATH"] = os.getcwd()
    sys.exit(main())
