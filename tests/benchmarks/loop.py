"""What `ireasoner run` adds to its stages' own work, and what its warm engine saves, in the demonstration world.

python -m tests.benchmarks.loop [ITERATIONS]
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from ireasoner_cli.app import app
from ireasoner_cli.demo.layout import lay_out
from ireasoner_cli.running.display import Display
from ireasoner_cli.running.figures import Figures
from ireasoner_cli.running.loop import Plan, run_loop
from ireasoner_cli.running.prepare import Prepare
from ireasoner_cli.work import Work
from ireasoner_cli.workers.staff import Here
from stages.sampling import open_sampler


class Timed(Display):
    """Keeps the seconds from its making to the end of the last iteration: then the engine is put away, once a run."""

    def __init__(self, iterations: int) -> None:
        super().__init__(iterations)
        self.seconds, self._made = 0.0, time.perf_counter()

    def finished(self, number: int, figures: Figures, seconds: float | None) -> None:
        super().finished(number, figures, seconds)
        self.seconds = time.perf_counter() - self._made


def in_one_process(plan: Plan, warm: bool) -> tuple[float, float]:
    """Seconds of the loop, and of the stages in it; an engine for every stage unless `warm`."""
    context = typer.main.get_command(app).make_context("ireasoner", ["run"])
    own = 0.0

    class Clocked(Prepare):
        def __call__(self, *words: Any) -> Work:
            work = super().__call__(*words)

            def stage(**given: Any) -> Any:
                nonlocal own
                started = time.perf_counter()
                result = work.stage(**given if warm or "engines" not in given else given | {"engines": open_sampler})
                own += time.perf_counter() - started
                return result

            return replace(work, stage=stage)

    prepare = Clocked(typer.Context(context.command, parent=context), None, False)
    with Timed(plan.iterations) as view, closing(Here()) as here:
        run_loop(plan, prepare, view, here)
    return view.seconds, own


def as_shell_loop(plan: Plan) -> float:
    """Seconds of the same stages, a process each."""

    def ireasoner(*words: object) -> None:
        subprocess.run([sys.executable, "-m", "ireasoner_cli", *map(str, words)], check=True, capture_output=True)

    started = time.perf_counter()
    for number in range(1, plan.iterations + 1):
        folder, before = plan.folder(number), plan.policy(number - 1)
        policy = ["--policy", before] if before else []
        folder.mkdir(parents=True)
        ireasoner("propose", "--images", plan.images, *policy, "--out", folder / "questions.parquet")
        ireasoner("rollout", folder / "questions.parquet", *policy)
        ireasoner("score", folder / "rollouts.parquet")
        ireasoner("update", folder / "scored.parquet", *policy)
    return time.perf_counter() - started


def main(iterations: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PYTHONPATH"] = os.getcwd()
        os.chdir(scratch)
        lay_out(Path("world"))
        os.chdir("world")

        def plan(name: str) -> Plan:
            return Plan(Path("pool"), iterations, Path(name))

        in_one_process(replace(plan("first"), iterations=1), warm=True)  # what is imported and compiled once
        loop, stages = in_one_process(plan("warm"), warm=True)
        cold, _ = in_one_process(plan("cold"), warm=False)
        shell = as_shell_loop(plan("shell"))
    print(f"an iteration, mean of {iterations}:")
    for what, seconds in (
        ("ireasoner run", loop),
        ("its stages alone", stages),
        ("ireasoner run with an engine for every stage", cold),
        ("shell loop, a process for every stage", shell),
    ):
        print(f"{what:48} {seconds / iterations:6.1f} s")
    print(f"the loop's own work: {100 * (loop / stages - 1):.2f} % of its stages'")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
