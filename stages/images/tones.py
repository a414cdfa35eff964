"""Greys of more than 8 bits in 8: those of scanners, microscopes, depth cameras and design programs.

A 16-bit grey has a white of its own, 65535. What 32-bit integers and floating-point numbers mean is not in the file:
the lowest of them becomes black and the highest white.
"""

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

WHITE = 65535.0  # of 16 bits
MOSTLY_EMPTY = 4096.0  # 16 bits that stay below are spread, too: 12-bit sensors, depths in millimetres
BLOCK = 1 << 20  # values at a time
SAMPLE_FORMAT, UNSIGNED = 339, (1,)  # a TIFF's tag and what it says of integers without a sign


def is_deep(image: Image.Image) -> bool:
    """Whether it is a grey of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def shallow(image: Image.Image) -> Image.Image:
    """A deep grey in mode L. Values that are no numbers become black, infinite ones black or white.

    Raises ValueError for a 32-bit picture whose values are all the same, or none of them finite: it shows nothing.
    """
    values = _values(image)
    low, high = _range(values)
    if _is_sixteen_bit(image) and (high >= MOSTLY_EMPTY or low == high):
        low, high = 0.0, WHITE
    if not low < high:
        raise ValueError("all of its 32-bit values are the same, so that nothing says what is black and what is white")
    grey = np.concatenate([_grey(block, low, high) for block in _blocks(values)])
    return Image.fromarray(grey.reshape(values.shape))


def _values(image: Image.Image) -> np.ndarray:
    """[height, width], integers or float32."""
    values = np.asarray(image)
    # Pillow has no mode for 32 bits without a sign, and takes them for signed ones.
    unsigned = image.mode == "I" and getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT) == UNSIGNED
    return values.view(np.uint32) if unsigned else values


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The values in order, as float64, a few at a time."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK].astype(np.float64)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest finite value; (inf, -inf) without any."""
    low, high = math.inf, -math.inf
    for block in _blocks(values):
        finite = block[np.isfinite(block)]
        low, high = min(low, finite.min(initial=math.inf)), max(high, finite.max(initial=-math.inf))
    return float(low), float(high)


def _grey(block: np.ndarray, low: float, high: float) -> np.ndarray:
    spread = (block - low) * (255 / (high - low))
    return np.nan_to_num(spread, nan=0.0).clip(0, 255).round().astype(np.uint8)


def _is_sixteen_bit(image: Image.Image) -> bool:
    """A PGM of more than 8 bits comes as 32-bit integers, and means what 16 bits do."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
