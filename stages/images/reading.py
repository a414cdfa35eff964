"""Images from anywhere, read the same way by what samples and by what learns."""

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from stages.contract import UNREADABLE
from stages.errors import DataError, why

# Raster formats only, and no plug-in that shells out or interprets a page-description language.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_ASPECT_RATIO = 200  # the Qwen2-VL processors refuse longer strips
MAX_PIXELS = 50_000_000  # decoding takes up to 16 bytes a pixel: 800 MB, within the 1 GiB that is promised
MAX_BYTES = 128 << 20  # of an encoded file


class UnreadableImage(Exception):
    """An image that cannot be used; the message becomes the row's reject_reason."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Image.Image:
    """The first frame as upright 8-bit RGB, transparency over white.

    Raises UnreadableImage for what is no image, is damaged, has more than MAX_PIXELS, or is too long and thin for the
    processors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MAX_PIXELS is stricter than Pillow's warning
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImage(f"{UNREADABLE}: {width}×{height} is too many pixels to decode safely")
            if max(width, height) >= MAX_ASPECT_RATIO * min(width, height):
                raise UnreadableImage(f"{UNREADABLE}: {width}×{height} is too long and thin")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{UNREADABLE}: too many pixels to decode safely") from error
    except MemoryError as error:
        raise UnreadableImage(f"{UNREADABLE}: too large for the memory") from error
    except Exception as error:  # Pillow's decoders raise almost anything over hostile bytes
        reason = "not an image" if "cannot identify" in str(error) else str(error) or type(error).__name__
        raise UnreadableImage(f"{UNREADABLE}: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greys, which convert() would clip to white
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def read_file(path: Path) -> bytes:
    """The bytes of an encoded image. Raises OSError, and ValueError for what is no ordinary file, is larger than any
    image or has no name a system can hold."""
    # Without blocking: opening a pipe that nobody writes to would never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not an ordinary file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return data


def read(image: dict[str, Any], expected_sha256: str | None) -> bytes:
    """The encoded bytes of a shard's `image` struct, checked against the hash the shard records.

    Raises DataError when the file is gone or is not the one that was proposed on.
    """
    data, path = image.get("bytes"), image.get("path")
    where = path or "an embedded image"
    if data is None:
        if not path:
            raise DataError("a row has an image with neither bytes nor path")
        try:
            data = read_file(Path(path))
        except OSError as error:
            raise DataError(
                f"{path}: {why(error)}; paths are taken from the working directory "
                "(propose --embed-images does without them)"
            ) from error
        except ValueError as error:  # a NUL in the name, too
            raise DataError(f"{path!r}: cannot be read as an image ({error})") from error
    if expected_sha256 and sha256(data) != expected_sha256:
        raise DataError(f"{where}: the image has changed since its question was proposed; propose again")
    return data


def read_all(row: Mapping[str, Any]) -> list[bytes]:
    """The encoded bytes of a trajectory's pictures. Raises DataError as `read` does, and where there are not as many
    hashes as pictures."""
    pictures = row["images"] or []
    hashes = row["images_sha256"] or [None] * len(pictures)
    if len(hashes) != len(pictures):
        raise DataError(f"group {row['group_id']}: {len(pictures)} images, and {len(hashes)} hashes of them")
    return [read(picture or {}, digest) for picture, digest in zip(pictures, hashes, strict=True)]


def load_all(row: Mapping[str, Any]) -> tuple[Image.Image, ...]:
    """`read_all`, then `decode`. Raises DataError, also for an image that cannot be decoded."""
    found = []
    for picture, data in zip(row["images"] or (), read_all(row), strict=True):
        try:
            found.append(decode(data))
        except UnreadableImage as error:
            raise DataError(f"{(picture or {}).get('path') or 'an embedded image'}: {error}") from error
    return tuple(found)
