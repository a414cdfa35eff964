"""Images from anywhere, read the same way by what samples and by what learns."""

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from stages.contract import UNREADABLE
from stages.errors import DataError, why
from stages.images.bare import PNG, without_metadata
from stages.images.tones import is_deep, shallow

# Raster formats only, and no plug-in that shells out or interprets a page-description language.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_ASPECT_RATIO = 200  # the Qwen2-VL processors refuse longer strips
MAX_PIXELS = 50_000_000  # decoding takes up to 16 bytes a pixel: 800 MB, within the 1 GiB that is promised
MAX_BYTES = 128 << 20  # of an encoded file
# How files of these formats begin; WEBP's have a length in between.
SIGNATURES = (PNG, b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P5\n", b"P6\n")
UPRIGHT = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """An image that cannot be used; the message becomes the row's reject_reason."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Image.Image:
    """The first frame as upright 8-bit RGB, transparency over white.

    Raises UnreadableImage for what is no image, is damaged, has more than MAX_PIXELS, is too long and thin for the
    processors, or is a grey of which nothing says what is black.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MAX_PIXELS is stricter than Pillow's warning
            image = _load(data)
            turn = _turn(image)
            # A copy is without the file, whose decoder may hold frames of its own: WebP's holds two.
            image = shallow(image) if is_deep(image) else image.copy()
            image = _to_rgb(image)
            return image.transpose(turn) if turn is not None else image
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{UNREADABLE}: too many pixels to decode safely") from error
    except MemoryError as error:
        raise UnreadableImage(f"{UNREADABLE}: too large for the memory") from error
    except Exception as error:  # Pillow's decoders raise almost anything over hostile bytes
        unknown = "of a kind that is not read" if is_encoded(data) else "not an image"
        reason = unknown if "cannot identify" in str(error) else str(error) or type(error).__name__
        raise UnreadableImage(f"{UNREADABLE}: {reason}") from error


def is_encoded(data: bytes) -> bool:
    """Whether bytes begin as a picture in one of FORMATS does."""
    return data.startswith(SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _load(data: bytes) -> Image.Image:
    """The first frame, its pixels read; where that fails, without what the file holds beside them."""
    try:
        return _load_all(data)
    except (UnreadableImage, Image.DecompressionBombError, MemoryError):
        raise
    except Exception:
        bare = without_metadata(data)
        if bare is None:
            raise
        return _load_all(bare)


def _load_all(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{UNREADABLE}: {width}×{height} is too many pixels to decode safely")
    if max(width, height) >= MAX_ASPECT_RATIO * min(width, height):
        raise UnreadableImage(f"{UNREADABLE}: {width}×{height} is too long and thin")
    image.load()
    return image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets a picture upright, as its EXIF data say; damaged ones say nothing."""
    try:
        return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's reader of EXIF data raises almost anything, too
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
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
