"""This machine: what is there, looked at once; and what there is to say of it."""

import os
import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ireasoner_cli.doctor.finding import Finding, fail, ok, warn
from stages.errors import EngineError
from stages.models.estimate import GIB

DRIVER_OF_CUDA = {13: 580, 12: 525}  # the oldest driver for a major version of CUDA
BFLOAT16 = (8, 0)  # the compute capability that has it
QUERY = ("name", "memory.total", "memory.free", "driver_version", "compute_mode", "compute_cap")
LITTLE_MEMORY = 4 * GIB
SHARED_MEMORY = GIB  # what the processes of one engine over several GPUs tell one another through /dev/shm


@dataclass(frozen=True)
class Gpu:
    """total, free: bytes. capability: major and minor. exclusive: whether only one process may use it."""

    name: str
    total: int
    free: int
    capability: tuple[int, int] = (9, 0)
    exclusive: bool = False


@dataclass(frozen=True)
class Machine:
    """python, driver, torch: versions; cuda: that torch is built for, None for a build for CPUs. gpus: as the driver
    has them; usable: how many of them torch can use; refusal: why every command will refuse to compute; visible: the
    user's own CUDA_VISIBLE_DEVICES. memory, free_memory, shared_memory: bytes of the computer's own. compiler, headers:
    whether there is one of C, and Python's."""

    python: str = platform.python_version()
    system: str = f"{platform.system()} {platform.machine()}"
    cores: int = 1
    memory: int = 0
    free_memory: int = 0
    shared_memory: int = 0
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    torch: str = ""
    cuda: str | None = None
    usable: int = 0
    refusal: str = ""
    visible: str | None = None
    compiler: bool = True
    headers: bool = True


def look() -> Machine:
    """Imports torch, and asks the driver; makes no context on a GPU."""
    import torch

    from stages.models.device import gpu_is_used

    driver, gpus = _from_driver()
    usable, refusal = 0, ""
    try:
        usable = torch.cuda.device_count() if gpu_is_used() else 0
    except EngineError as error:
        refusal = str(error)
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_meminfo("MemTotal"),
        free_memory=_meminfo("MemAvailable"),
        shared_memory=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0,
        driver=driver,
        gpus=gpus,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        usable=usable,
        refusal=refusal,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        compiler=any(map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))),
        headers=Path(sysconfig.get_path("include"), "Python.h").is_file(),
    )


def _from_driver() -> tuple[str | None, tuple[Gpu, ...]]:
    """Its version and its GPUs, as nvidia-smi tells them; a container may have the driver without the program."""
    try:
        query = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        file = Path("/proc/driver/nvidia/version")
        words = file.read_text().split() if file.is_file() else []
        return next((word for word in words if word[:1].isdigit() and "." in word), None), ()
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines() if line.count(",") >= 5]
    gpus = tuple(
        Gpu(name, _mib(total), _mib(free), _version(capability), "exclusive" in mode.lower())
        for name, total, free, _, mode, capability in rows
    )
    return (rows[0][3] if rows else None), gpus


def _mib(text: str) -> int:
    return int(text) << 20 if text.isdigit() else 0  # [N/A], of memory that the computer shares


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def _meminfo(name: str) -> int:
    """Bytes, of /proc/meminfo."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


def findings(machine: Machine) -> Iterator[Finding]:
    yield _python(machine)
    yield _memory(machine)
    yield from _gpus(machine)
    yield _device(machine)
    if machine.gpus:
        yield from _needed_by_gpus(machine)


def _python(machine: Machine) -> Finding:
    minor = int(machine.python.split(".")[1])
    text = f"Python {machine.python}, {machine.system}"
    if not 11 <= minor <= 13:
        return fail("python", text, "use Python 3.11, 3.12 or 3.13")
    if not machine.system.startswith("Linux"):
        return warn("python", text, "made for Linux, and tried nowhere else")
    return ok("python", text)


def _memory(machine: Machine) -> Finding:
    text = f"{machine.cores} cores, {machine.memory / GIB:.0f} GiB of memory, {machine.free_memory / GIB:.0f} free"
    figures = {"cores": machine.cores, "bytes": machine.memory, "free": machine.free_memory}
    if machine.free_memory < LITTLE_MEMORY:
        return warn("computer", text, f"an engine wants {LITTLE_MEMORY / GIB:.0f} GiB; stop what else runs", **figures)
    return ok("computer", text, **figures)


def _gpus(machine: Machine) -> Iterator[Finding]:
    for number, gpu in enumerate(machine.gpus):
        about = f"gpu {number}"
        text = f"{gpu.name}, {gpu.total / GIB:.0f} GiB, {gpu.free / GIB:.0f} free"
        figures = {"name": gpu.name, "bytes": gpu.total, "free": gpu.free, "capability": gpu.capability}
        if gpu.capability < BFLOAT16:
            yield fail(about, text, "it has no bfloat16 (compute capability 8.0, Ampere, and later do)", **figures)
        elif gpu.exclusive:
            advice = "in exclusive compute mode the sampler's and the learner's process cannot share it, as `run` needs"
            yield warn(about, text, f"{advice}; nvidia-smi -c 0, or a loop over the stages", **figures)
        elif gpu.free < 0.9 * gpu.total:
            yield warn(about, text, "somebody else has the rest; `nvidia-smi` says who", **figures)
        else:
            yield ok(about, text, **figures)


def _device(machine: Machine) -> Finding:
    """Where things will be computed."""
    built = f"torch {machine.torch}, " + (f"for CUDA {machine.cuda}" if machine.cuda else "for CPUs")
    figures = {"torch": machine.torch, "cuda": machine.cuda, "driver": machine.driver, "usable": machine.usable}
    if machine.usable:
        return ok("device", f"GPU ({machine.usable} usable); {built}, driver {machine.driver or 'unknown'}", **figures)
    oldest = DRIVER_OF_CUDA.get(int((machine.cuda or "0").split(".")[0]), 0)
    if machine.refusal and machine.driver and int(machine.driver.split(".")[0]) < oldest:
        text, advice = f"driver {machine.driver}; {built}", f"CUDA {machine.cuda} needs driver {oldest} or later"
        return fail("device", text, f"{advice}. {machine.refusal}", **figures)
    if machine.refusal:
        return fail("device", f"{built}; driver {machine.driver or 'not there'}", machine.refusal, **figures)
    if machine.driver and not machine.cuda and machine.visible != "":
        advice = (
            "`pip uninstall torch`, then `pip install 'ireasoner[gpu]'`; CUDA_VISIBLE_DEVICES=\"\" says a CPU is meant"
        )
        return fail("device", f"{built}, beside driver {machine.driver}", advice, **figures)
    why = "no NVIDIA driver" if machine.driver is None else "CUDA_VISIBLE_DEVICES is empty"
    return ok("device", f"CPU; {built}; {why}", **figures)


def _needed_by_gpus(machine: Machine) -> Iterator[Finding]:
    missing = [what for what, there in (("a C compiler", machine.compiler), ("Python.h", machine.headers)) if not there]
    if missing:
        version = ".".join(machine.python.split(".")[:2])
        advice = f"Triton compiles when it is first used: apt install gcc python{version}-dev"
        yield fail("compiler", f"no {' and no '.join(missing)}", advice)
    else:
        yield ok("compiler", "a C compiler and Python.h, for Triton")
    if len(machine.gpus) > 1 and machine.shared_memory < SHARED_MEMORY:
        text = f"/dev/shm has {machine.shared_memory / GIB:.2f} GiB"
        yield warn("shared memory", text, "engines and learners over several GPUs need 1: docker run --ipc=host")
