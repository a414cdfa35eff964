"""Encoded pictures without what lies beside the picture: a broken comment, profile or date must not cost the picture.

Pillow reads all of a file's metadata before its pixels, and gives up where it does not understand them.
"""

import struct

PNG = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")  # the last says which side is up
JPEG = b"\xff\xd8"
SCAN = 0xDA
JPEG_METADATA = {0xE0, *range(0xE2, 0xEE), 0xEF, 0xFE}  # not EXIF data, nor Adobe's word on the colours
# What says where the pixels are, how they are packed and which side is up (TIFF 6.0).
TIFF_TAGS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(332, 338, 339, 347, 529, 530, 531, 532),
}


def without_metadata(data: bytes) -> bytes | None:
    """The same picture in a file without metadata; None where there is nothing that could be left out.

    Knows PNG, JPEG and TIFF, for of the others Pillow reads no metadata before it is asked to.
    """
    kinds = {PNG: _bare_png, JPEG: _bare_jpeg, b"II": _bare_tiff, b"MM": _bare_tiff}
    try:
        bare = next((strip(data) for begins, strip in kinds.items() if data.startswith(begins)), None)
    except struct.error:  # cut off
        return None
    return bare if bare != data else None


def _bare_png(data: bytes) -> bytes:
    kept = bytearray(PNG)
    place, name = len(PNG), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if name in PNG_CHUNKS:
            kept += data[place:end]
        place = end
    return bytes(kept)


def _bare_jpeg(data: bytes) -> bytes:
    kept = bytearray(JPEG)
    place = len(JPEG)
    while True:
        mark, name, length = struct.unpack_from(">BBH", data, place)
        if mark != 0xFF or name == SCAN:
            return bytes(kept) + data[place:]
        end = place + 2 + length
        if name not in JPEG_METADATA:
            kept += data[place:end]
        place = end


def _bare_tiff(data: bytes) -> bytes | None:
    """With entries of its first directory made ones of no known type, which readers pass over."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = struct.unpack_from(f"{order}H", data, 2)[0] if order else None
    if version == 42:
        (place,), (count, first, size) = struct.unpack_from(f"{order}I", data, 4), ("H", 2, 12)
    elif version == 43:  # BigTIFF
        (place,), (count, first, size) = struct.unpack_from(f"{order}Q", data, 8), ("Q", 8, 20)
    else:
        return None
    bare = bytearray(data)
    (entries,) = struct.unpack_from(f"{order}{count}", data, place)
    for entry in range(place + first, min(place + first + entries * size, len(data) - size + 1), size):
        if struct.unpack_from(f"{order}H", data, entry)[0] not in TIFF_TAGS:
            struct.pack_into(f"{order}H", bare, entry + 2, 0)
    return bytes(bare)
