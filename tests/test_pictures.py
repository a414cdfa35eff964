"""Pictures of every mode: what the model is shown, and what must not cost a picture."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from stages.images.reading import UnreadableImage, decode


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(values: np.ndarray, sample_format: int) -> bytes:
    """A little-endian TIFF of one channel, as a microscope writes it; Pillow writes few of these kinds."""
    height, width = values.shape
    pixels = values.tobytes()
    long, short = 4, 3
    tags = [
        *((256, long, width), (257, long, height), (258, short, 8 * values.itemsize), (259, short, 1), (262, short, 1)),
        *((273, long, 8), (277, short, 1), (278, long, height), (279, long, len(pixels)), (339, short, sample_format)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def ramp(low: float, high: float, kind: type) -> np.ndarray:
    return np.linspace(low, high, 64).astype(kind)[None].repeat(32, 0)


DEEP: dict[str, tuple[np.ndarray, int]] = {
    "float, 0 to 1": (ramp(0, 1, np.float32), 3),
    "float, 0 to 255": (ramp(0, 255, np.float32), 3),
    "float, around 0": (ramp(-3e38, 3e38, np.float32), 3),
    "float, hardly any range": (ramp(1e-9, 2e-9, np.float32), 3),
    "32 bits, 0 to 255": (ramp(0, 255, np.int32), 2),
    "32 bits, around 0": (ramp(-(2**31), 2**31 - 1, np.int32), 2),
    "32 bits without a sign": (ramp(0, 2**32 - 1, np.uint32), 1),
    "16 bits with a sign": (ramp(-3000, 3000, np.int16), 2),
    "16 bits": (ramp(0, 65535, np.uint16), 1),
    "12 bits in 16": (ramp(0, 4095, np.uint16), 1),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_ramp_is_shown_from_black_to_white_whatever_its_type(name: str) -> None:
    shown = np.asarray(decode(tiff(*DEEP[name])))[0, :, 0].astype(int)
    assert shown[0] == 0 and shown[-1] == 255 and 124 <= shown[32] <= 132
    assert (np.diff(shown) >= 0).all() and len(set(shown.tolist())) > 50


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, (4, 4), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
)
def test_floats_are_spread_over_their_own_range_or_refused_with_a_reason(values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    if len(set(finite.tolist())) < 2:
        with pytest.raises(UnreadableImage, match="unreadable image: all of its 32-bit values are the same"):
            decode(tiff(values, 3))
        return
    shown = np.asarray(decode(tiff(values, 3)))[..., 0]
    assert shown[np.isfinite(values)].min() == 0 and shown[np.isfinite(values)].max() == 255
    assert (shown[np.isposinf(values)] == 255).all() and (shown[np.isneginf(values)] == 0).all()
    order = np.argsort(finite)
    assert (np.diff(shown[np.isfinite(values)][order].astype(int)) >= 0).all()


def test_sixteen_bits_have_a_white_of_their_own() -> None:
    grey = np.full((4, 4), 32896, np.uint16)
    assert decode(tiff(grey, 1)).getpixel((0, 0)) == (128, 128, 128)
    assert decode(b"P5 2 1 65535\n" + struct.pack(">HH", 32896, 65535)).getpixel((0, 0)) == (128, 128, 128)
    assert decode(tiff(np.zeros((4, 4), np.uint16), 1)).getpixel((0, 0)) == (0, 0, 0)


def test_a_kind_that_pillow_does_not_know_is_not_called_no_image() -> None:
    with pytest.raises(UnreadableImage, match="unreadable image: of a kind that is not read"):
        decode(tiff(ramp(0, 1, np.float64), 3))


# ----------------------------------------------------------------------------------------------- metadata


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def segment(mark: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, mark, 2 + len(data)) + data


PICTURE = Image.effect_noise((40, 30), 60).convert("RGB")
LARGE = zlib.compress(bytes(3_000_000))
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a long compressed text": ("PNG", lambda data: data[:33] + chunk(b"zTXt", b"workflow\0\0" + LARGE) + data[33:]),
    "a long text behind": ("PNG", lambda data: data[:-12] + chunk(b"tEXt", b"a\0" + bytes(70_000_000)) + data[-12:]),
    "a large colour profile": ("PNG", lambda data: data[:33] + chunk(b"iCCP", b"p\0\0" + LARGE) + data[33:]),
    "an unknown colour profile": ("PNG", lambda data: data[:33] + chunk(b"iCCP", b"p\0\7") + data[33:]),
    "a checksum of a comment": ("PNG", lambda data: data[:33] + chunk(b"tEXt", b"a\0b")[:-4] + bytes(4) + data[33:]),
    "a resolution": ("PNG", lambda data: data[:33] + chunk(b"pHYs", b"1") + data[33:]),
    "EXIF data in a PNG": ("PNG", lambda data: data[:33] + chunk(b"eXIf", b"junk") + data[33:]),
    "EXIF data": ("JPEG", lambda data: data[:2] + segment(0xE1, b"Exif\0\0MM\0*junk") + data[2:]),
    "a colour profile in a JPEG": ("JPEG", lambda data: data[:2] + segment(0xE2, b"ICC_PROFILE\0") + data[2:]),
    "a JFIF header": ("JPEG", lambda data: data[:2] + segment(0xE0, b"JFIF\0") + data[2:]),
    "a TIFF's comment": ("TIFF", lambda data: _with_entry(data, 270, struct.pack("<HII", 2, 99, len(data) - 9))),
    "a TIFF's EXIF data": ("TIFF", lambda data: _with_entry(data, 34665, struct.pack("<HII", 4, 1, 3))),
}


def _with_entry(data: bytes, tag: int, entry: bytes) -> bytes:
    """A TIFF whose description has become another entry."""
    place = data.index(struct.pack("<HH", 270, 2))
    return data[:place] + struct.pack("<H", tag) + entry + data[place + 12 :]


@pytest.mark.parametrize("name", BROKEN)
def test_metadata_nobody_needs_never_costs_a_sound_picture(name: str) -> None:
    kind, spoil = BROKEN[name]
    options = {"description": "a microscope's words"} if kind == "TIFF" else {}
    sound = encoded(PICTURE, kind, **options)
    spoilt = spoil(sound)
    assert spoilt != sound
    assert decode(spoilt).tobytes() == decode(sound).tobytes()


def test_an_orientation_beside_damaged_exif_data_still_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    data = exif.tobytes()
    entry = struct.pack(">HH", 0x010F, 2)
    assert entry in data
    spoilt = data.replace(entry, entry[:2] + bytes(2))
    for kind in ("JPEG", "PNG", "WEBP"):
        assert decode(encoded(PICTURE, kind, exif=spoilt)).size == (30, 40)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.sampled_from((0xE0, 0xE1, 0xE2, 0xED, 0xFE)))
def test_no_segment_of_metadata_costs_a_jpeg(junk: bytes, mark: int) -> None:
    sound = encoded(PICTURE, "JPEG")
    assert decode(sound[:2] + segment(mark, junk) + sound[2:]).tobytes() == decode(sound).tobytes()
