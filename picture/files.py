"""Reading picture files: the stated size is checked before decoding, photos are turned upright."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

PICTURE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pbm", ".pgm", ".ppm")
)
KINDS = "PNG, JPEG, BMP, TIFF, WebP, GIF, PBM, PGM or PPM"
# A photo has at most so many pixels, and decoded at most so many bytes.
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28
# White paper takes a byte for some hundred pixels; what promises far more than that is a bomb.
PIXELS_A_BYTE = 2048
# A scan goes over all pixels; progressive JPEGs have ten or so, but may have thousands.
MAX_SCANNED = 1 << 30

# What OpenCV would add on stderr is said in a sentence; 0 is silence.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture file as it is: (h,w), (h,w,3) BGR or (h,w,4) BGRA; photos turned upright.

    Raises FileNotFoundError, or ValueError for what is no picture, damaged, or too large.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such file; expected a picture ({KINDS})")
    if not os.path.isfile(path):  # reading a pipe or a device may never end
        raise ValueError(f"{path}: not a regular file; expected a picture ({KINDS})")
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES >> 20} MB; crop it to the character")
    # cv2.imread cannot open non-ASCII names on Windows; decoding from memory can.
    return decode_picture(np.fromfile(path, np.uint8), str(path))


def decode_picture(data: np.ndarray | bytes, name: str = "picture") -> np.ndarray:
    """Decode the bytes of a picture file; see `read_picture`.

    The size that the file's header states is checked before anything is decoded.
    """
    data = bytes(data)
    if not data:
        raise ValueError(f"{name}: the file is empty; expected a picture ({KINDS})")
    unreadable = f"{name}: not a picture that can be decoded; expected {KINDS}"
    try:
        width, height, depth = _stated_size(data)
    except (struct.error, LookupError, ValueError, StopIteration):
        raise ValueError(unreadable) from None
    if width < 1 or height < 1:
        raise ValueError(unreadable)
    pixels = width * height
    if pixels > MAX_PIXELS or pixels * depth > MAX_BYTES:
        raise ValueError(
            f"{name}: {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million pixels "
            f"or {MAX_BYTES >> 20} MB; crop it to the character"
        )
    if pixels > PIXELS_A_BYTE * (len(data) + 64):
        raise ValueError(f"{name}: {width} x {height} pixels cannot be in {len(data):,} bytes")
    jpeg = data[:2] in (b"\xff\xd8", b"II", b"MM")  # TIFF may hold JPEGs
    if jpeg and pixels * data.count(b"\xff\xda") > max(MAX_SCANNED, pixels * len(data) >> 14):
        raise ValueError(f"{name}: {width} x {height} pixels in too many scans; save it anew")
    orientation = _orientation(data)
    try:
        if data[:4] == b"\x89PNG":
            # OpenCV trusts the sizes of chunks that are not needed.
            needed = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
            parts = [data[a:b] for kind, a, b in _png_chunks(data) if kind in needed]
            data = data[:8] + b"".join(parts)
        # Unchanged keeps transparency, but also a photo as the camera held it.
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, struct.error):
        picture = None
    if picture is None:
        raise ValueError(unreadable)
    return _upright(picture, orientation)


def _stated_size(data: bytes) -> tuple[int, int, int]:
    """Return width, height and bytes a pixel that the header of a picture file states.

    What is damaged or none of the formats raises whatever; see `decode_picture`.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
        return width, height, 4 * max(1, bits // 8) if colour else max(1, bits // 8)
    if data[:2] == b"\xff\xd8":
        height, width = next(
            struct.unpack(">HH", body[1:5])
            for kind, body in _jpeg_segments(data)
            if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)
        )
        return width, height, 3
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return *_webp_size(data), 4
    if data[:2] == b"BM":
        if data[14:18] == b"\x0c\0\0\0":
            return *struct.unpack("<HH", data[18:22]), 4
        width, height = struct.unpack("<ii", data[18:26])
        return abs(width), abs(height), 4
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return *struct.unpack("<HH", data[6:10]), 4
    if data[:4] in (b"II*\0", b"MM\0*"):
        tags = _tiff_tags(data)
        return tags[256], tags[257], tags.get(277, 1) * max(1, tags.get(258, 1) // 8)
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        words = re.sub(rb"#[^\n\r]*", b" ", data[2:4096]).split(maxsplit=2)
        width, height = int(words[0]), int(words[1])
        return width, height, {b"1": 1, b"4": 1, b"2": 2, b"5": 2}.get(data[1:2], 6)
    raise ValueError("none of the formats")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a WebP file."""
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and body of the segments of a JPEG file up to the first scan."""
    at = 2
    while at + 4 <= len(data):
        marker, kind, length = struct.unpack(">BBH", data[at : at + 4])
        if marker != 0xFF or kind == 0xDA:
            return
        if kind == 0xFF:  # padding
            at += 1
            continue
        yield kind, data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first number of each tag of TIFF or Exif data, 0 where it is of an odd type.

    Raises struct.error where data are cut off, or a tag stands there twice: who knows which one is
    believed.
    """
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number, value = struct.unpack(order + "HHII", data[entry : entry + 12])
        if tag in tags:
            raise struct.error
        tags[tag] = 0
        if size := {1: "B", 3: "H", 4: "I"}.get(kind):
            length = struct.calcsize(size)
            place = entry + 8 if number * length <= 4 else value
            (tags[tag],) = struct.unpack(order + size, data[place : place + length])
    return tags


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and stop of the chunks of a PNG file; struct.error where one is cut."""
    at, kind = 8, b""
    while kind != b"IEND":
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + size > len(data):
            raise struct.error
        yield kind, at, at + 12 + size
        at += 12 + size


def _orientation(data: bytes) -> int:
    """Return how a camera was held, 1 to 8 as in Exif; 1 (upright) where nothing is said."""
    exif = b""
    try:
        if data[:2] == b"\xff\xd8":
            bodies = (body for kind, body in _jpeg_segments(data) if kind == 0xE1)
            exif = next((body[6:] for body in bodies if body[:6] == b"Exif\0\0"), b"")
        elif data[:4] == b"\x89PNG":
            chunks = (data[a + 8 : b - 4] for kind, a, b in _png_chunks(data) if kind == b"eXIf")
            exif = next(chunks, b"")
        elif data[:4] == b"RIFF":
            at = 12
            while at + 8 <= len(data) and not exif:
                kind, size = struct.unpack("<4sI", data[at : at + 8])
                if kind == b"EXIF":
                    exif = data[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0")
                at += 8 + size + size % 2
        return _tiff_tags(exif).get(274, 1) if exif[:2] in (b"II", b"MM") else 1
    except struct.error:
        return 1


def _upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a picture as its Exif orientation says."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
