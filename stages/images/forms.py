"""The forms in which people's files hold pictures: bytes, a struct of bytes and path, a path, base64 text, or a list of
any of these; and texts, which are questions or answers."""

import base64
import binascii
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from stages.contract import UNREADABLE
from stages.errors import why
from stages.images.reading import MAX_BYTES, SUFFIXES, is_encoded, read_file

DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
LONGEST_URI_HEAD = 100
WEB = re.compile(r"(?:https?|ftp|s3|gs|hf)://", re.IGNORECASE)
FILE_URI = "file://"
LONGEST_PATH = 4096
ROW_BYTES = 256 << 20  # of a row's pictures together
HEAD = 32  # characters of base64 that tell a picture from a path
# Messages of a conversation, and the parts of one, in the forms of OpenAI and of LLaVA.
USERS = ("user", "human")
TEXT_FIELDS = ("content", "value", "text")
# Where other tools put the pictures in a text: here they all come first. The second is for the text read backwards,
# which takes linear time.
MARKS_BEFORE, MARKS_BEHIND = re.compile(r"(?:<image>\s*)*"), re.compile(r"(?:\s*>egami<)*")


@dataclass(frozen=True)
class PoolImage:
    """One image of the pool: its path as reached from the working directory, or None when it is only a row of
    a dataset; its encoded bytes, or None when it cannot be read, with the reason."""

    path: str | None
    data: bytes | None
    problem: str | None = None


@dataclass(frozen=True)
class PoolRow:
    """What stands at one position of the pool: images, at least one, and where it has them a question about these, its
    answer, and how they are changed on the way to the model."""

    images: tuple[PoolImage, ...]
    question: str | None = None
    target: str | None = None
    view: str | None = None


def count(value: Any) -> int:
    """How many pictures a value holds."""
    return len(value) if isinstance(value, list) and not _is_octets(value) else 1


def pictures(value: Any, beside: Path | None) -> Iterator[PoolImage]:
    """The pictures that a row's value holds, at least one, each read as it is asked for.

    Paths are looked for in the folder `beside`, then in the working directory; without a folder they lead nowhere.
    """
    several = value if isinstance(value, list) and not _is_octets(value) else [value]
    size = 0
    for each in several or [None]:
        found = _picture(each, beside)
        size += len(found.data or b"")
        if size > ROW_BYTES:
            yield _problem(f"its row's pictures are larger than {ROW_BYTES >> 20} MiB")
            return
        yield found


def _picture(value: Any, beside: Path | None) -> PoolImage:
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, list) and _is_octets(value):
        value = bytes(value)
    if value is None or value == "":
        return _problem("the row holds no picture")
    if isinstance(value, str):
        encoded = _base64(value)
        if encoded is None:
            return _file(value, beside)
        try:
            value = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
        except (binascii.Error, ValueError) as error:
            return _problem(f"not base64 ({error})")
    if not isinstance(value, bytes):
        return _problem(f"the row holds no picture, but {_kind(value)}")
    if len(value) > MAX_BYTES:
        return _problem(f"larger than {MAX_BYTES >> 20} MiB")
    return PoolImage(None, value)


def _problem(reason: str, path: str | None = None) -> PoolImage:
    return PoolImage(path, None, f"{UNREADABLE}: {reason}")


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"


def _is_octets(value: list[Any]) -> bool:
    """Whether a list is one picture, byte by byte."""
    return bool(value) and all(type(each) is int and 0 <= each < 256 for each in value)


def _base64(text: str) -> str | None:
    """The base64 in a text that holds a picture; None for a path."""
    if uri := DATA_URI.match(text[:LONGEST_URI_HEAD]):
        return text[uri.end() :]
    try:
        begins = base64.b64decode(text[:HEAD], validate=True)
    except (binascii.Error, ValueError):
        return None
    return text if is_encoded(begins) else None


def _file(name: str, beside: Path | None) -> PoolImage:
    if len(name) > LONGEST_PATH:
        return _problem(f"a text of {len(name):,} characters, neither a path nor base64")
    shown = clean(name)
    if shown != name:  # it could not be stored
        return _problem("its name is not valid UTF-8", shown)
    if WEB.match(name):
        return _problem(f"{name}: on the web, from where nothing is fetched", name)
    if beside is None:
        return _problem(f"{name}: a file that the dataset does not bring with it", name)
    if name.startswith(FILE_URI):
        name = unquote(name.removeprefix(FILE_URI))
    for path in dict.fromkeys(os.path.normpath(folder / name) for folder in (beside, Path())):
        try:
            return PoolImage(path, read_file(Path(path)))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            return _problem(f"{path}: {why(error)}", path)
    return _problem(f"{name}: no such file, neither beside the dataset nor in the working directory", name)


def could_be(value: Any) -> bool:
    """Whether a value has one of the forms of pictures; what is in it is another matter."""
    if isinstance(value, list):
        return _is_octets(value) or any(map(could_be, value))
    if isinstance(value, dict):
        return could_be(value.get("bytes")) or could_be(value.get("path"))
    return isinstance(value, bytes | str) and bool(value)


def begins_as_picture(value: Any) -> bool:
    """Whether a value is a picture beyond doubt: bytes or base64 that begin as one."""
    if isinstance(value, list):
        return is_encoded(bytes(value[:HEAD])) if _is_octets(value) else any(map(begins_as_picture, value))
    if isinstance(value, dict):
        return begins_as_picture(value.get("bytes"))
    return is_encoded(value) if isinstance(value, bytes) else isinstance(value, str) and _base64(value) is not None


def names_picture(value: Any) -> bool:
    """Whether a value is the name of a file of pictures."""
    if isinstance(value, list):
        return any(map(names_picture, value))
    if isinstance(value, dict):
        return value.get("bytes") is None and names_picture(value.get("path"))
    is_name = isinstance(value, str) and len(value) < LONGEST_PATH and value.lower().endswith(SUFFIXES)
    return is_name and not WEB.match(value)


# ------------------------------------------------------------------------------------------------- texts


def clean(text: str) -> str:
    """What of a text is valid Unicode: JSON can spell what no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def question(value: Any) -> str | None:
    """As `text`, without the marks of pictures before and behind."""
    asked = text(value) or ""
    asked = asked[_length(MARKS_BEFORE, asked) :]
    return asked[: len(asked) - _length(MARKS_BEHIND, asked[::-1])].strip() or None


def _length(pattern: re.Pattern[str], of: str) -> int:
    found = pattern.match(of)
    return found.end() if found else 0


def text(value: Any) -> str | None:
    """A question or an answer as text; None where there is none. Of several the first; of a conversation what the user
    said last."""
    if isinstance(value, dict):
        return text(next((value[name] for name in TEXT_FIELDS if value.get(name)), None))
    if isinstance(value, list):
        said = [each for each in value if isinstance(each, dict) and (each.get("role") or each.get("from")) in USERS]
        return text(said[-1]) if said else next(filter(None, map(text, value)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):  # as DuckDB reads every 1.5
        value = format(value, "f") if value.is_finite() else None
    if isinstance(value, str | int | float):
        return clean(str(value)).strip() or None
    return None
