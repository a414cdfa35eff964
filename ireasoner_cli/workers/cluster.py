"""Workers on a Ray cluster: an actor each, wherever there are GPUs. Words and answers go through Ray, and nothing else.

The files are on a filesystem that all machines have at the same paths.
"""

import os
import pkgutil
import signal
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from ireasoner_cli.workers.answer import CLOSING, PATIENCE, Answer, Words
from stages import __version__
from stages.errors import EngineError, UsageError, first_line

WORKER = "ireasoner_cli.workers.acting:ActingWorker"  # by its name, for it runs the commands that come here
CARRIED = ("IREASONER_", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")  # how variables begin that workers get, too


class Actors:
    """So many workers with so many GPUs each; by default as many as the cluster's GPUs allow, or one a machine where
    there are none. One that is lost is started again by Ray, where there is room."""

    def __init__(self, address: str, workers: int | None, gpus_each: int, debug: bool = False) -> None:
        """Raises UsageError where the cluster has not so many GPUs, EngineError where there is none."""
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=debug, logging_level="error")
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"--ray {address}: no cluster answers ({first_line(error)})") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process where it stands
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kind, each = ("GPU", gpus_each) if any("GPU" in machine for machine in machines) else ("CPU", 1)
        room = sum(int(machine.get(kind, 0) // each) for machine in machines)
        self.size = workers or (room if kind == "GPU" else len(machines))
        if not 0 < self.size <= room:  # they would wait for it for ever, without a word
            ray.shutdown()
            raise UsageError(
                f"--ray {address}: {self.size} workers of {each} {kind} each were asked for, and {room} fit on its "
                f"{len(machines)} machines"
            )
        variables = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        actor = ray.remote(pkgutil.resolve_name(WORKER)).options(
            num_cpus=1,
            num_gpus=each if kind == "GPU" else 0,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )
        self._actors = [actor.remote(os.getcwd(), debug) for _ in range(self.size)]
        self._asked: dict[Any, tuple[int, Words | None]] = {}

    def begin(self, worker: int, words: Words) -> None:
        # Words that die with their worker count; first, then, whether it is there at all, which may take Ray a while.
        self._asked[self._actors[worker].version.remote()] = worker, words

    def next(self) -> tuple[int, Answer]:
        while True:
            [done], _ = ray.wait(list(self._asked))
            worker, words = self._asked.pop(done)
            try:
                told = ray.get(done)
            except RayActorError as error:
                lost = f"its worker was lost ({_reason(error)})"
                return worker, Answer(EngineError.__name__, lost, later=words is not None, died=words is None)
            except RayTaskError as error:
                return worker, Answer(EngineError.__name__, _reason(error))
            if words is None:
                answer = Answer(**told)
                if answer.died:  # with all that its engine holds
                    self.end(worker)
                return worker, answer
            if told != __version__:
                other = f"ireasoner {told} is installed on a machine of the cluster, and {__version__} here"
                return worker, Answer(UsageError.__name__, f"{other}; install the same on all")
            self._asked[self._actors[worker].answer.remote(list(words))] = worker, None

    def address(self, worker: int) -> tuple[str, int]:
        for _ in range(PATIENCE):
            try:
                return ray.get(self._actors[worker].address.remote())
            except RayActorError as error:  # it is being started again, or waits for room
                reason = _reason(error)
                time.sleep(1)
        raise EngineError(f"worker {worker} was lost and has not come back ({reason})")

    def end(self, worker: int) -> None:
        self._asked = {asked: about for asked, about in self._asked.items() if about[0] != worker}
        ray.kill(self._actors[worker], no_restart=False)

    def close(self) -> None:
        """Interrupts what is still at work, and waits for it, but not for ever."""
        try:
            for asked in self._asked:
                ray.cancel(asked)
            ray.wait(list(self._asked), num_returns=len(self._asked), timeout=CLOSING)
        finally:
            ray.shutdown()


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which is where the cause is."""
    return str(error).strip().splitlines()[-1].strip()
