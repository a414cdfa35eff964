"""The engine in a process of its own, which a GPU always has: its adapters, its sleep, and that it ends with us."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.contract import SOLVER
from stages.learning.model import PolicyModel
from stages.models.finding import find_model
from stages.sampling.dying_with_parent import PARENT
from stages.sampling.vllm import VllmSampler
from tests.conftest import needs_vllm

ROOT = Path(__file__).parent.parent
SITE = """
import sys
from stages.models import torchvision_operators
torchvision_operators.install()
for name in ("torchaudio", "torchcodec"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For processes with our plugin of vLLM's as an installation has it, and what `make install` repairs."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE)
    plugins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    info = site / "of_this_tree-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-this-tree\nVersion: 0\n")
    lines = [f"{name} = {value}" for name, value in plugins.items()]
    (info / "entry_points.txt").write_text("\n".join(["[vllm.general_plugins]", *lines, ""]))
    return {
        **os.environ,
        "PYTHONPATH": f"{site}:{ROOT}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }


@pytest.fixture(scope="module")
def adapters(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that have moved, each its own way."""
    policy, folder = PolicyModel(find_model(str(model_dir)), seed=0), tmp_path_factory.mktemp("adapters")
    torch.manual_seed(3)
    for name in ("one", "two"):
        with torch.no_grad():
            for parameter in policy.parameters(SOLVER).values():
                parameter.add_(0.1 * torch.randn_like(parameter))
        policy.save_adapter(SOLVER, folder / name)
    return [str(folder / name) for name in ("one", "two")]


def reports(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    raise AssertionError(f"it ended with {process.wait()}: {process.stderr.read() if process.stderr else ''}")


def goes(pid: int, within: float = 30.0) -> bool:
    """Whether a process of no child of ours ends in so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@needs_vllm
def test_one_engine_at_a_time_whatever_happens_to_it(
    environment: dict[str, str], model_dir: Path, adapters: list[str]
) -> None:
    command = [sys.executable, "-m", "tests.engine_process", str(model_dir), *adapters]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        told = reports(process)
        base, one, two, asleep, woken, interrupted, closed, opened = (next(told) for _ in range(8))
        first = base["engines"]
        assert len(first) == 1 and all(each["engines"] == first for each in (one, two, asleep, woken))
        assert base["tokens"] != one["tokens"] != two["tokens"] != base["tokens"]
        assert asleep["asleep"] and woken["tokens"] == one["tokens"]
        assert interrupted["exit"] == 130 and closed["engines"] == [] and not alive(first[0])
        assert opened["tokens"] == one["tokens"] and len(opened["engines"]) == 1
        # Killed, it cannot end its engine, which still ends.
        process.kill()
        assert goes(opened["engines"][0])
    finally:
        process.kill()
        process.wait()


def test_closed_it_is_gone_however_long_it_takes_to_die() -> None:
    """vLLM kills what does not end in five seconds, and does not wait for it."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), name="EngineCore")
    process.start()
    sampler = VllmSampler.__new__(VllmSampler)
    core = SimpleNamespace(shutdown=threading.Timer(0.5, process.kill).start)
    sampler._llm = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core))
    sampler.close()
    assert not process.is_alive()


PARENT_AND_CHILD = f"""
import multiprocessing, os, time

def child(loaded):
    from vllm.plugins import load_general_plugins
    load_general_plugins()
    loaded.send(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    import sys
    if sys.argv[1:]:
        os.environ[{PARENT!r}] = str(os.getpid())
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=child, args=(there,)).start()
    print(here.recv(), flush=True)
    time.sleep(600)
"""


@needs_vllm
@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that can")
@pytest.mark.parametrize("ours", [True, False])
def test_what_vllm_starts_dies_with_the_one_that_started_it_if_that_is_us(
    ours: bool, environment: dict[str, str], tmp_path: Path
) -> None:
    """And engines that others start, in an environment that we are installed in, are left alone."""
    (tmp_path / "start.py").write_text(PARENT_AND_CHILD)
    quiet = environment | {"VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, str(tmp_path / "start.py"), *["ours"] * ours]
    process = subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    try:
        assert goes(child, within=10.0 if ours else 1.0) is ours
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
