"""What workers cost over a shell's processes, where the sampling itself costs next to nothing: the fake sampler's.

python -m tests.benchmarks.workers [GROUPS [CALLS]]
"""

import contextlib
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ireasoner_cli.workers.crew import Crew
from ireasoner_cli.workers.processes import Processes
from tests.conftest import build_tiny_model, draw

ROLLOUT = "rollout --sampler fake --shard {part}/2 --out {out} -- questions.parquet"


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the CPU in this process and those that it has waited for."""

    def used() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))

    started, before = time.perf_counter(), used()
    work()
    return time.perf_counter() - started, used() - before


def words(out: str) -> list[list[str]]:
    return [shlex.split(ROLLOUT.format(part=part, out=out)) for part in (1, 2)]


def by_shell() -> None:
    commands = [[sys.executable, "-m", "ireasoner_cli", *each] for each in words("shell")]
    for process in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]:
        assert process.wait() == 0


def by_workers(rounds: int) -> None:
    with contextlib.closing(Processes([None, None])) as carrier:
        crew = Crew(carrier)
        for number in range(rounds):
            crew.run(words(f"workers-{number}"))


def a_call(calls: int) -> float:
    """Seconds of words for which there is nothing to do."""
    with contextlib.closing(Processes([None])) as carrier:
        crew, nothing = Crew(carrier), [["sleep"]] * calls
        crew.run(nothing[:1])
        return measured(lambda: crew.run(nothing))[0] / calls


def main(groups: int = 1000, calls: int = 100) -> None:
    os.environ["PYTHONPATH"] = os.getcwd()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        build_tiny_model(Path("model"))
        for index in range(8):
            draw(Path(f"pool/{index}.png"), index)
        propose = f"propose --images pool --model model --sampler fake --groups {groups}"
        subprocess.run([sys.executable, "-m", "ireasoner_cli", *propose.split()], check=True, stdout=subprocess.DEVNULL)
        shell, once, twice = measured(by_shell), measured(lambda: by_workers(1)), measured(lambda: by_workers(2))
        call = a_call(calls)
    print(f"rollouts of {groups} questions by two processes      clock     CPU, seconds")
    for what, (clock, cpu) in (("a shell's", shell), ("two workers, with their start", once)):
        print(f"{what:48} {clock:8.2f} {cpu:8.2f}")
    print(f"{'the same again, by workers that are there':48} {twice[0] - once[0]:8.2f} {twice[1] - once[1]:8.2f}")
    print(f"workers over a shell's processes, once: {once[1] - shell[1]:.2f} s of CPU; a call: {1000 * call:.1f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
