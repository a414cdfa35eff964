"""Runs an experiment by the product's own commands: `python -m tests.evidence.experiment [SETTINGS] --seeds 1 2`.

    build/evidence/SETTINGS/seed-1/pool/                                  images without labels
                                  benchmark.parquet                       held-out questions, at home and abroad
                                  full/ireasoner.toml  it0001/ …          one row: a run
                                  full/greedy.parquet  sampled.parquet    its last policy on the benchmark

Interrupted, the same command goes on where it stopped. What each row came to replaces what was known of it in
docs/evidence/accuracy.csv and dynamics.csv; rows of other seeds stay. The tables do not say which checkpoint they are
of: it is the demonstration's, and a new one needs new tables.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from rich.console import Console

from ireasoner_cli.demo import world
from ireasoner_cli.demo.layout import MODEL
from stages import shards
from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL
from stages.errors import EngineError, StageError
from tests.evidence import records, results
from tests.evidence.settings import EXPERIMENTS, Settings

BUILD = Path("build/evidence")
TABLES = Path("docs/evidence")
BENCHMARK_SEED = 1  # the questions are the same for all seeds
LOG = "log.txt"
SAMPLED = ("--samples", "5", "--temperature", "1")
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Job:
    """One row with one seed."""

    name: str
    settings: Settings
    row: str
    seed: int

    @property
    def world(self) -> Path:
        return BUILD / self.name / f"seed-{self.seed}"

    @property
    def folder(self) -> Path:
        return self.world / self.row


def lay_out(name: str, settings: Settings, seed: int) -> None:
    """The pool of a seed and the benchmark, made once."""
    folder = BUILD / name / f"seed-{seed}"
    pool, benchmark = folder / "pool", folder / "benchmark.parquet"
    if benchmark.is_file():
        return
    world.write_pool(pool, settings.pool, seed)
    rows = world.benchmark(settings.questions, BENCHMARK_SEED, (*world.HOME, *world.ABROAD))
    table = pa.Table.from_pylist(
        [{**row, "image": {"bytes": row["image"]}} for row in rows],
        pa.schema([*BENCHMARK, BENCHMARK_OPTIONAL.field("type")]),
    )
    unfinished = folder / ".benchmark.partial"
    shards.write_table(unfinished, table)
    os.replace(unfinished, benchmark)


def run(job: Job, threads: int) -> float:
    """Runs what is missing of a job; returns the seconds it took.

    Raises CalledProcessError when a command fails; it has said why in the job's log.
    """
    started = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job.folder / "ireasoner.toml"
    config.write_text(to_toml({"model": str(MODEL), "seed": job.seed}, job.settings.of(job.row)), encoding="utf-8")
    last = job.settings.iterations
    policy: list[str] = []
    if job.settings.rows[job.row] is not None:
        _train(job, threads)
        policy = ["--policy", str(job.folder / f"it{last:04d}" / "policy")]
    for out, options in (("greedy", ()), ("sampled", SAMPLED)):
        benchmark = str(job.world / "benchmark.parquet")
        _call(job, threads, "eval", benchmark, *policy, *options, "--out", str(job.folder / f"{out}.parquet"))
    return time.monotonic() - started


def _train(job: Job, threads: int) -> None:
    """The whole run, collapsed or not: what comes of a collapse is a result."""
    arguments = ("--images", str(job.world / "pool"), "--iterations", str(job.settings.iterations))
    while True:
        done = _iterations(job)
        try:
            return _call(job, threads, "run", *arguments, "--out", str(job.folder))
        except subprocess.CalledProcessError as error:
            if error.returncode != EngineError.exit_code or _iterations(job) == done:
                raise


def _iterations(job: Job) -> int:
    return len(list(job.folder.glob("it*/policy/state.json")))


def record(job: Job, truth: Mapping[str, world.Chart]) -> None:
    """Puts what a finished job came to into the tables."""
    key = {"settings": job.name, "row": job.row, "seed": job.seed}
    found = records.accuracies(job.folder / "greedy.parquet", job.folder / "sampled.parquet")
    records.replace_records(TABLES / "accuracy.csv", results.ACCURACY, key, found)
    if job.settings.rows[job.row] is not None:
        numbers = range(1, job.settings.iterations + 1)
        course = [
            {"iteration": number, **records.iteration(job.folder / f"it{number:04d}", truth)} for number in numbers
        ]
        records.replace_records(TABLES / "dynamics.csv", results.DYNAMICS, key, course)


def _call(job: Job, threads: int, command: str, *arguments: str) -> None:
    words = [sys.executable, "-m", "ireasoner_cli", command, *arguments, "--config", str(job.folder / "ireasoner.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (job.folder / LOG).open("ab") as log:
        subprocess.run(words, check=True, stdout=log, stderr=log, env=environment)


def to_toml(top: Mapping[str, Any], commands: Mapping[str, Mapping[str, Any]]) -> str:
    """An `ireasoner.toml` with these keys at the top and a table for each command."""

    def lines(options: Mapping[str, Any]) -> list[str]:
        return [f"{name} = {_value(value)}" for name, value in options.items()]

    text = lines(top)
    for command, options in commands.items():
        text += ["", f"[{command}]", *lines(options)]
    return "\n".join(text) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("settings", choices=sorted(EXPERIMENTS), nargs="?", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", nargs="+", help="only these")
    arguments = parser.parse_args()
    name, settings = arguments.settings, EXPERIMENTS[arguments.settings]
    rows, seeds = list(dict.fromkeys(arguments.rows or settings.rows)), list(dict.fromkeys(arguments.seeds))
    if min(seeds) < 0:
        parser.error("seeds begin at 0")
    if unknown := set(rows) - set(settings.rows):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(settings.rows)}")
    TABLES.mkdir(parents=True, exist_ok=True)
    truths = {}
    for seed in seeds:
        lay_out(name, settings, seed)
        truths[seed] = records.charts(settings.pool, seed)
    jobs = [Job(name, settings, row, seed) for seed in seeds for row in rows]
    at_once = 1 if torch.cuda.is_available() else 2  # an engine takes most of a GPU
    threads = max(1, (os.cpu_count() or 1) // at_once)
    console.print(f"{len(jobs)} runs, {at_once} at a time; to follow one: tail -f {jobs[0].folder / LOG}")
    failed = []
    workers = ThreadPoolExecutor(at_once)
    try:
        running = [(job, workers.submit(run, job, threads)) for job in jobs]
        for done, (job, future) in enumerate(running, 1):
            said = f"{done} of {len(jobs)}: {job.row}, seed {job.seed}"
            try:
                seconds = future.result()
            except subprocess.CalledProcessError:
                failed.append(job.folder / LOG)
                console.print(f"{said}: failed")
                continue
            record(job, truths[job.seed])
            console.print(f"{said}: {seconds:.0f} s")
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
    if failed:
        sys.exit(f"a command failed; see {', '.join(map(str, failed))}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except StageError as error:
        sys.exit(str(error))
