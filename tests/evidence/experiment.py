"""Runs an experiment by the product's own commands: `python -m tests.evidence.experiment [SETTINGS] --seeds 1 2`.

    build/evidence/SETTINGS/seed-1/pool/                                  images without labels
                                  questions.parquet                       the same with questions and true answers
                                  benchmark.parquet                       held-out questions, at home and abroad
                                  full/ireasoner.toml  it0001/ …          one row: a run
                                  full/greedy-20.parquet  sampled-20.parquet    its policy after so many iterations
                                                                          on the benchmark

Interrupted, the same command goes on where it stopped. Rows are named in full, or by what is before the @. What each
row came to replaces what was known of it in accuracy.csv and dynamics.csv (docs/evidence/, or --tables); rows of other
seeds stay. With the second checkpoint, as tests/evidence/checkpoint.py makes it, the settings in the tables say which
one it is, as in prose:1f2e3d4c: the lesson taught anew has come out another, and rows of two are no seeds of one.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
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
from stages.models.finding import fingerprint
from tests.evidence import records, results
from tests.evidence.contenders import AT, Options
from tests.evidence.settings import EXPERIMENTS, Settings

BUILD = Path("build/evidence")
TABLES = Path("docs/evidence")
BENCHMARK_SEED = 1  # the questions are the same for all seeds
SECOND = "model"  # the second checkpoint, in the folder of the runs
GIVEN = pa.schema([BENCHMARK.field("image"), ("question", pa.string()), ("target", pa.string())])
CONFIG = "ireasoner.toml"
LOG = "log.txt"
DECODINGS: Mapping[str, Sequence[str]] = {"greedy": (), "sampled": ("--samples", "5", "--temperature", "1")}
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Job:
    """One row with one seed."""

    name: str
    settings: Settings
    row: str
    seed: int
    build: Path = BUILD

    @property
    def world(self) -> Path:
        return self.build / (self.settings.begun or self.name) / f"seed-{self.seed}"

    @property
    def folder(self) -> Path:
        return self.world / self.row

    @property
    def model(self) -> Path:
        return self.build / SECOND if self.settings.second else MODEL

    @property
    def images(self) -> Path:
        return self.world / ("pool" if self.settings.asks(self.row) else "questions.parquet")

    @property
    def recorded_settings(self) -> str:
        """What its settings are called in the tables: with the second checkpoint by its fingerprint, too."""
        return f"{self.name}:{fingerprint(self.model)[:8]}" if self.settings.second else self.name

    @property
    def learns(self) -> bool:
        return self.settings.rows[self.row] is not None

    @property
    def answers(self) -> dict[str, Path]:
        """Where the answers to the benchmark are, greedy and sampled."""
        after = self.settings.iterations if self.learns else 0
        return {decoding: self.folder / f"{decoding}-{after}.parquet" for decoding in DECODINGS}

    @property
    def config(self) -> str:
        """Its ireasoner.toml."""
        return to_toml({"model": str(self.model), "seed": self.seed}, self.settings.of(self.row))

    def is_done(self) -> bool:
        """Whether all of it is there, and was made with these settings."""
        made = [*self.answers.values(), config := self.folder / CONFIG]
        return all(path.is_file() for path in made) and config.read_text(encoding="utf-8") == self.config


def lay_out(folder: Path, settings: Settings, seed: int) -> None:
    """The pool of a seed, the same with questions, and the benchmark, made once, in its `folder`."""
    if (folder / "benchmark.parquet").is_file() and (folder / "questions.parquet").is_file():
        return
    world.write_pool(folder / "pool", settings.pool, seed, settings.home)
    _write(folder / "questions.parquet", with_answers(settings.pool, seed, settings.home), GIVEN)
    rows = world.benchmark(settings.questions, BENCHMARK_SEED, (*settings.home, *world.ABROAD))
    pictured = [{**row, "image": {"bytes": row["image"]}} for row in rows]
    _write(folder / "benchmark.parquet", pictured, pa.schema([*BENCHMARK, BENCHMARK_OPTIONAL.field("type")]))


def with_answers(count: int, seed: int, levels: Sequence[int]) -> list[dict[str, Any]]:
    """The charts of a pool, each with a question of the world's own, and the true answer."""
    rng = random.Random(f"questions {seed}")
    rows = []
    for chart in world.pool(count, seed, levels):
        question = world.draw_question(rng, chart)
        picture = {"bytes": world.to_png(world.render(chart))}
        rows.append({"image": picture, "question": question.text, "target": question.solution.answers[0]})
    return rows


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    unfinished = path.with_name(f".{path.name}.partial")
    shards.write_table(unfinished, pa.Table.from_pylist(rows, schema))
    os.replace(unfinished, path)


def run(job: Job, threads: int) -> float:
    """Runs what is missing of a job; returns the seconds it took.

    Raises CalledProcessError when a command fails; it has said why in the job's log.
    """
    started = time.monotonic()
    if job.is_done():
        return 0.0
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / CONFIG).write_text(job.config, encoding="utf-8")
    last = job.settings.iterations
    policy: list[str] = []
    if job.learns:
        _train(job, threads)
        policy = ["--policy", str(job.folder / f"it{last:04d}" / "policy")]
    for decoding, out in job.answers.items():
        benchmark = str(job.world / "benchmark.parquet")
        _call(job, threads, "eval", benchmark, *policy, *DECODINGS[decoding], "--out", str(out))
    return time.monotonic() - started


def _train(job: Job, threads: int) -> None:
    """The whole run, collapsed or not: what comes of a collapse is a result."""
    arguments = ("--images", str(job.images), "--iterations", str(job.settings.iterations))
    while True:
        done = _iterations(job)
        try:
            return _call(job, threads, "run", *arguments, "--out", str(job.folder))
        except subprocess.CalledProcessError as error:
            if error.returncode != EngineError.exit_code or _iterations(job) == done:
                raise


def _iterations(job: Job) -> int:
    return len(list(job.folder.glob("it*/policy/state.json")))


def record(job: Job, truth: Mapping[str, world.Chart], tables: Path = TABLES) -> None:
    """Puts what a finished job came to into the tables."""
    key = {"settings": job.recorded_settings, "row": job.row, "seed": job.seed}
    found = records.accuracies(**job.answers)
    records.replace_records(tables / "accuracy.csv", results.ACCURACY, key, found)
    if job.learns:
        numbers = range(1, job.settings.iterations + 1)
        course = [
            {"iteration": number, **records.iteration(job.folder / f"it{number:04d}", truth)} for number in numbers
        ]
        records.replace_records(tables / "dynamics.csv", results.DYNAMICS, key, course)


def _call(job: Job, threads: int, command: str, *arguments: str) -> None:
    words = [sys.executable, "-m", "ireasoner_cli", command, *arguments, "--config", str(job.folder / CONFIG)]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    with (job.folder / LOG).open("ab") as log:
        subprocess.run(words, check=True, stdout=log, stderr=log, env=environment)


def to_toml(top: Mapping[str, Any], commands: Options) -> str:
    """An `ireasoner.toml` with these keys at the top, a table for each command, and one for each pass."""

    def lines(options: Mapping[str, Any]) -> list[str]:
        return [f"{name} = {_value(value)}" for name, value in options.items()]

    text = lines(top)
    for command, options in commands.items():
        if command == "pass":
            text += [line for own in options for line in ("", "[[pass]]", *lines(own))]
        else:
            text += ["", f"[{command}]", *lines(options)]
    return "\n".join(text) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else str(value)


def chosen(there: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The rows that are wanted, each once: those of this name, and of a contender's all its learning rates."""
    wanted = set(wanted)
    return [row for row in there if row in wanted or row.split(AT)[0] in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("settings", choices=sorted(EXPERIMENTS), nargs="?", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", nargs="+", help="only these")
    parser.add_argument("--build", type=Path, default=BUILD, help="where the runs are")
    parser.add_argument("--tables", type=Path, default=TABLES, help="where the CSV files are")
    parser.add_argument("--at-once", type=int, default=1 if torch.cuda.is_available() else 2)  # an engine fills a GPU
    arguments = parser.parse_args()
    name, settings = arguments.settings, EXPERIMENTS[arguments.settings]
    rows, seeds = chosen(settings.rows, arguments.rows or settings.rows), list(dict.fromkeys(arguments.seeds))
    if min(seeds) < 0:
        parser.error("seeds begin at 0")
    if unknown := [row for row in arguments.rows or () if not chosen(settings.rows, [row])]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(settings.rows)}")
    arguments.tables.mkdir(parents=True, exist_ok=True)
    jobs = [Job(name, settings, row, seed, arguments.build) for seed in seeds for row in rows]
    for job in jobs:
        lay_out(job.world, settings, job.seed)
    truths = {seed: records.charts(settings.pool, seed, settings.home) for seed in seeds}
    at_once = arguments.at_once
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
            record(job, truths[job.seed], arguments.tables)
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
