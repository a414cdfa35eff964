"""Runs an experiment by the product's own commands: `python -m tests.evidence.experiment [SETTINGS] --seeds 1 2`.

    build/evidence/SETTINGS/seed-1/pool/                                  images without labels
                                  benchmark.parquet                       held-out questions, at home and abroad
                                  full/ireasoner.toml  it0001/ …          one row: a run
                                  full/greedy.parquet  sampled.parquet    its last policy on the benchmark

Interrupted, the same command goes on where it stopped. What each row came to replaces what was known of it in
docs/evidence/accuracy.csv and dynamics.csv; rows of other seeds stay.
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
from rich.console import Console

from ireasoner_cli.demo import world
from ireasoner_cli.demo.layout import MODEL
from stages import shards
from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL
from tests.evidence import records, results
from tests.evidence.settings import EXPERIMENTS, Settings

BUILD = Path("build/evidence")
TABLES = Path("docs/evidence")
BENCHMARK_SEED = 1  # the questions are the same for all seeds
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
    shards.write_table(benchmark, table)


def run(job: Job, threads: int, model: Path) -> float:
    """Runs what is missing of a job and records it; returns the seconds it took.

    Raises CalledProcessError when a command fails; it has said why in the job's log.
    """
    started = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job.folder / "ireasoner.toml"
    config.write_text(to_toml({"model": str(model), "seed": job.seed}, job.settings.of(job.row)), encoding="utf-8")
    last = job.settings.iterations
    policy: list[str] = []
    if job.settings.rows[job.row] is not None:
        images, iterations = str(job.world / "pool"), str(last)
        _call(job, threads, "run", "--images", images, "--iterations", iterations, "--out", str(job.folder))
        policy = ["--policy", str(job.folder / f"it{last:04d}" / "policy")]
    for out, options in (("greedy", ()), ("sampled", SAMPLED)):
        benchmark = str(job.world / "benchmark.parquet")
        _call(job, threads, "eval", benchmark, *policy, *options, "--out", str(job.folder / f"{out}.parquet"))
    return time.monotonic() - started


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
    with (job.folder / "log.txt").open("ab") as log:
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
    parser.add_argument("--model", type=Path, default=MODEL)
    arguments = parser.parse_args()
    name, settings = arguments.settings, EXPERIMENTS[arguments.settings]
    rows = arguments.rows or list(settings.rows)
    if unknown := set(rows) - set(settings.rows):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(settings.rows)}")
    TABLES.mkdir(parents=True, exist_ok=True)
    truths = {}
    for seed in arguments.seeds:
        lay_out(name, settings, seed)
        truths[seed] = records.charts(settings.pool, seed)
    jobs = [Job(name, settings, row, seed) for seed in arguments.seeds for row in rows]
    threads = max(1, (os.cpu_count() or 1) // settings.at_once)
    with ThreadPoolExecutor(settings.at_once) as workers:
        running = [(job, workers.submit(run, job, threads, arguments.model)) for job in jobs]
        for done, (job, future) in enumerate(running, 1):
            try:
                seconds = future.result()
            except subprocess.CalledProcessError:
                workers.shutdown(cancel_futures=True)
                sys.exit(f"{job.folder}: a command failed; its log is {job.folder / 'log.txt'}")
            record(job, truths[job.seed])
            console.print(f"{done} of {len(jobs)}: {job.row}, seed {job.seed}: {seconds:.0f} s")


if __name__ == "__main__":
    main()
