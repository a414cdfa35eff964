"""torchvision beside a torch that it was not built for.

Where PyPI is the only index it comes built for CUDA, and beside a torch for CPUs its compiled library cannot be loaded.
Its import then fails over two operators of that library, nms and qnms, of which it wants to say more. Declared, they
let it be imported, and its transforms, which are Python and all that the models' processors use, work; the operators
themselves do not, as torchvision says of them when they are called.

This file imports nothing of ours, and next to nothing before torchvision is imported: `ireasoner_cli.environment` puts
a copy of it into an environment, where it runs whenever Python starts.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

_KEPT: list[Any] = []


def install() -> None:
    """From now on the operators that are missing are declared as torchvision is imported; where its library can be
    loaded, nothing is touched."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "torchvision" else None
        if spec is not None and spec.loader is not None and spec.submodule_search_locations:
            (folder, *_), run = spec.submodule_search_locations, spec.loader.exec_module

            def exec_module(module: Any) -> None:
                if not fits(folder):
                    _declare()
                run(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def fits(folder: str) -> bool:
    """Whether the library of the torchvision in `folder` can be loaded beside the torch that is installed."""
    import ctypes
    from pathlib import Path

    import torch  # noqa: F401  # its own libraries are then there

    try:
        for library in Path(folder).glob("_C.*"):
            ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _declare() -> None:
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)  # the operators live as long as the library object
