"""Folders of weights from elsewhere: looked over before any library that would follow where they point opens them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
LONGEST_HEADER = 100 * MIB  # the format's own limit
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPE_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


class Refused(Exception):
    """What is wrong, with the file's name, for the caller's own kind of error."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file; `start` in bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def tensor_headers(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name, none of them read.

    Raises Refused for what is no such file, and for shapes and places that its size belies.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as weights:
            length = int.from_bytes(weights.read(8), "little")
            if length > min(LONGEST_HEADER, size):
                raise ValueError("header longer than the file")
            header: dict[str, Any] = json.loads(weights.read(length))
        header.pop("__metadata__", None)
        return {name: _stored_tensor(name, entry, 8 + length, size) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{file}: not a safetensors file, or damaged ({error})") from error


def _stored_tensor(name: str, entry: dict[str, Any], offset: int, size: int) -> StoredTensor:
    shape = tuple(int(length) for length in entry["shape"])
    start, end = (offset + int(place) for place in entry["data_offsets"])
    takes = math.prod(shape) * DTYPE_BYTES.get(entry["dtype"], 0)
    fits = offset <= start <= end <= size and all(length >= 0 for length in shape)
    if not fits or (entry["dtype"] in DTYPE_BYTES and end - start != takes):
        raise ValueError(f"{name}: {entry['dtype']} {list(shape)} does not fit the {size} bytes of the file")
    return StoredTensor(entry["dtype"], shape, start)


def check_links(folder: Path, root: Path | None = None) -> None:
    """Raises Refused when something in `folder`, at any depth, is a link that leads out of `root` (the folder itself)
    or nowhere, or is neither a file nor a folder."""
    root = (root or folder).resolve()
    for entry in sorted(folder.rglob("*")):
        if not entry.resolve().is_relative_to(root):
            raise Refused(f"{entry}: a link that leads out of its folder; put the file itself there")
        if not entry.is_file() and not entry.is_dir():
            raise Refused(f"{entry}: neither a file nor a folder")


def read_json(file: Path, largest: int = 64 * MIB) -> dict[str, Any]:
    """The object in a JSON file. Raises Refused for anything else, and for absurd sizes."""
    try:
        if file.stat().st_size > largest:
            raise ValueError(f"larger than {largest // MIB} MiB")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{file}: damaged, or not JSON ({error})") from error
