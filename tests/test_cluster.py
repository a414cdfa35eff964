"""Workers on a Ray cluster: the files of one, whatever becomes of them. Skipped where Ray is not installed."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ireasoner_cli.workers import staff
from stages import shards
from stages.errors import UsageError
from stages.policy import read_state
from tests import test_run
from tests.test_run import call, run
from tests.test_workers import patched, start, wait_until

world = test_run.world
SLOW = "Path('slow').exists() and (open(f'seen-{os.getpid()}', 'a').write('.'), time.sleep(0.02))"
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two machines of one worker each, in processes here; in a folder with a file `slow` they take their time."""
    utilities = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (the extra `ray`)")
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, tmp_path_factory.mktemp("site"), SLOW, "default_worker.py")
        made = utilities.Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        made.add_node(**NODE)
        yield made
        made.shutdown()


def actors() -> list[int]:
    """The processes of workers that Ray has started."""
    return [
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if entry.is_file() and b"ray::ActingWorker" in _content(entry)
    ]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it has ended
        return b""


def test_the_files_are_those_of_one_worker(world: Path, cluster: Any) -> None:
    """But for the policy: both actors learn."""
    assert run("--benchmark", "benchmark.parquet", out="one", iterations=1).exit_code == 0
    words = ("--benchmark", "benchmark.parquet", "--ray", cluster.address)
    done = run(*words, "--workers", 2, out="two", iterations=1)
    assert done.exit_code == 0, done.output
    for file in ("base", "it0001/questions", "it0001/rollouts", "it0001/scored"):
        assert Path(f"two/{file}.parquet").read_bytes() == Path(f"one/{file}.parquet").read_bytes()
    assert read_state(Path("two/it0001/policy")).lineage.device["ranks"] == 2
    wrong = call("eval", "nowhere.parquet", "--ray", cluster.address)  # one a machine: two
    assert wrong.exit_code == 2 and "nowhere.parquet: no such file" in wrong.stderr
    many = call("eval", "benchmark.parquet", "--ray", cluster.address, "--workers", 3)
    assert many.exit_code == 2 and "3 workers of 1 CPU each were asked for, and 2 fit" in many.stderr
    wait_until(lambda: not actors(), 10)


def test_interrupted_it_keeps_what_is_done(world: Path, cluster: Any) -> None:
    words = ("eval", "benchmark.parquet", "--samples", 20, "--ray", cluster.address)
    Path("slow").touch()
    driver = start(*words, "--out", "several.parquet")
    # Of its four questions each has answered two, and one perhaps all.
    wait_until(lambda: sum(file.stat().st_size > 45 for file in world.glob("seen-*")) == 2, 200)
    os.kill(driver.pid, signal.SIGTERM)
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130 and "run the same command again" in said and "Traceback" not in said
    wait_until(lambda: not actors(), 10)
    parts = shards.parts_directory(Path("several.parquet"))
    assert len([*parts.glob(".*.partial/aside.parquet"), *parts.glob("part-*.parquet")]) == 2


def test_an_interrupted_update_keeps_the_step_it_was_at(world: Path, cluster: Any) -> None:
    """Both ranks are told after their first step, and the checkpoint is of the one after it."""
    words = ("run", "--images", "pool", "--out", "loop", "--iterations", 1, "--ray", cluster.address)
    driver = start(*words, "--groups", 64)
    unfinished = shards.partial_directory(Path("loop/it0001/policy"))
    wait_until(unfinished.is_dir, 200)
    os.kill(driver.pid, signal.SIGTERM)
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130 and "Traceback" not in said
    wait_until(lambda: not actors(), 10)
    assert [*unfinished.glob("step-*")] and not Path("loop/it0001/policy").exists()
    assert call(*words, "--groups", 64).exit_code == 0


def test_what_is_lost_is_done_by_others(world: Path, cluster: Any) -> None:
    """The process of a worker is killed, then the machine of one: its words go to the other."""
    words = ("eval", "benchmark.parquet", "--samples", 40)
    assert call(*words, "--out", "alone.parquet").exit_code == 0
    Path("slow").touch()
    done: list[Any] = []
    several = threading.Thread(
        target=lambda: done.append(call(*words, "--out", "several.parquet", "--ray", cluster.address))
    )
    several.start()
    parts = shards.parts_directory(Path("several.parquet"))

    def wait_for_two() -> None:
        deadline = time.monotonic() + 120
        while len(actors()) < 2 or len(list(parts.glob(".*.partial/lock"))) < 2:
            assert several.is_alive() and time.monotonic() < deadline
            time.sleep(0.1)

    wait_for_two()
    os.kill(actors()[0], signal.SIGKILL)
    time.sleep(1)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    several.join(timeout=240)
    assert done and done[0].exit_code == 0, done and done[0].output
    assert Path("several.parquet").read_bytes() == Path("alone.parquet").read_bytes()


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staff, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ireasoner\[ray\]"), staff.open_crew(None, "auto", 1, False):
        pass
