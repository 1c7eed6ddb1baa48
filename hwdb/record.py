"""The .gnt record of the CASIA handwriting databases: read it, write it, name what is in it.

A .gnt file has no header; it is one record after another, little-endian:

    bytes  type    meaning
    4      uint32  size of the record, always 10 + width * height
    2      bytes   tag: the character in GB code (read as gb18030); ASCII is padded with NUL
    2      uint16  width
    2      uint16  height
    w * h  uint8   bitmap, row by row, 255 = paper

    >>> with open("1001-c.gnt", "rb") as stream:
    ...     for item in read_gnt(stream, "1001-c.gnt"):
    ...         if isinstance(item, Sample):
    ...             print(item.character, item.bitmap.shape)
    ...         else:
    ...             print(item.offset, item.reason)

The reader never stops in silence: what cannot be read is yielded as `Damage`, and reading goes on
wherever the next record is beyond doubt. Archives are opened by archives.py; PNG trees are written
by process_gnt.py.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO, NamedTuple

import numpy as np

HEADER = struct.Struct("<I2sHH")
# Beyond any handwritten character; keeps a damaged header from asking for gigabytes.
MAX_PIXELS = 1 << 24
CHUNK = 1 << 20


class Sample(NamedTuple):
    """One character: bitmap (h, w) uint8, 255 = paper; offset of its record in the file."""

    character: str
    bitmap: np.ndarray
    offset: int


class Damage(NamedTuple):
    """What could not be read: `kind` is one of empty, cut, size, zero, tag, archive."""

    source: str
    offset: int
    reason: str
    kind: str


class Record(NamedTuple):
    """A record as it stands in the file; `pixels` holds width * height bytes."""

    character: str
    width: int
    height: int
    pixels: bytes
    offset: int


def encode_tag(character: str) -> bytes:
    """Return the two tag bytes of a character; ValueError if it has no two-byte GB code."""
    tag = character.encode("gb18030") if len(character) == 1 else b""
    if not 1 <= len(tag) <= 2:
        raise ValueError(f"{character!r} has no two-byte GB code, so a .gnt file cannot hold it")
    return tag.ljust(2, b"\0")


@cache
def decode_tag(tag: bytes) -> str | None:
    """Return the character of two tag bytes, or None if they name none."""
    try:
        character = tag.strip(b"\0").decode("gb18030")
    except UnicodeDecodeError:
        return None
    # Private use (Co) is what gb18030 makes of the unassigned codes; Zs and Cc show nothing.
    if len(character) != 1 or unicodedata.category(character) in ("Co", "Cn", "Cc", "Zs"):
        return None
    return character


class _Window:
    """The part of a stream from `floor` on, read as it is asked for."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.data = b""
        self.start = 0  # offset of data[0]
        self.floor = 0  # nothing before this offset is needed any more
        self.ended = False
        self.failure: str | None = None

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on; fewer only where the stream ends."""
        begin = offset - self.start
        if begin + count > len(self.data) and not self.ended:
            self._fill(offset + count)
            begin = offset - self.start
        return self.data[begin : begin + count]

    def _fill(self, end: int) -> None:
        parts = [self.data[self.floor - self.start :]]
        self.start = self.floor
        have = len(parts[0])
        while self.start + have < end:
            try:
                chunk = self.stream.read(max(CHUNK, end - self.start - have))
            except (OSError, EOFError, ValueError) as error:
                chunk, self.failure = b"", str(error) or type(error).__name__
            if not chunk:
                self.ended = True
                break
            parts.append(chunk)
            have += len(chunk)
        self.data = b"".join(parts)


def _sizes(header: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a header whose size field agrees with them, else None."""
    if len(header) < HEADER.size:
        return None
    size, _, width, height = HEADER.unpack(header)
    pixels = width * height
    return (width, height) if size == HEADER.size + pixels and pixels <= MAX_PIXELS else None


def _starts_chain(window: _Window, offset: int) -> bool:
    """Tell whether a record with ink and a good tag begins here, and another or the end follows."""
    header = window.read(offset, HEADER.size)
    sizes = _sizes(header)
    if sizes is None or 0 in sizes or decode_tag(header[4:6]) is None:
        return False
    length = HEADER.size + sizes[0] * sizes[1]
    if len(window.read(offset, length)) < length:
        return False
    after = window.read(offset + length, HEADER.size)
    return not after or (_sizes(after) is not None and decode_tag(after[4:6]) is not None)


def _find_record(window: _Window, offset: int) -> int | None:
    """Return the first offset from `offset` on at which a record certainly begins."""
    while True:
        window.floor = offset
        data = np.frombuffer(window.read(offset, CHUNK), np.uint8)
        positions = len(data) - HEADER.size + 1
        if positions <= 0:
            return None
        # Every byte position at once: does the size field agree with width and height?
        size, width, height = (
            sum(data[at + i : at + i + positions].astype(np.int64) << (8 * i) for i in range(count))
            for at, count in ((0, 4), (6, 2), (8, 2))
        )
        fits = (size == HEADER.size + width * height) & (size > HEADER.size)
        for position in np.flatnonzero(fits).tolist():
            if _starts_chain(window, offset + position):
                return offset + position
        offset += positions


def read_records(stream: BinaryIO, name: str) -> Iterator[Record | Damage]:
    """Yield every record of a .gnt stream in order, and a `Damage` for all that is none.

    The stream is only read forwards, and no more than a few records of it are held. After damage
    reading goes on at the next place where two records follow each other (or one ends the file).
    Errors of the stream itself (a failed checksum, a disk error) end it and become a `Damage`.
    """
    window = _Window(stream)
    offset = 0
    while header := window.read(offset, HEADER.size):
        window.floor = offset
        sizes = _sizes(header)
        if sizes is None:
            found = _find_record(window, offset + 1)
            yield _header_damage(name, offset, header, found, window)
            if found is None:
                break
            offset = found
            continue
        width, height = sizes
        end = offset + HEADER.size + width * height
        pixels = window.read(offset + HEADER.size, width * height)
        after = window.read(end, HEADER.size)
        cut = len(pixels) < width * height
        if not cut and (not after or _sizes(after)):
            yield _record_or_damage(name, offset, header[4:6], width, height, pixels)
            offset = end
            continue
        # Bytes are missing: in this record if another begins inside it, else behind it.
        found = _find_record(window, offset + HEADER.size)
        if cut or (found is not None and found < end):
            yield _cut_damage(name, offset, width * height, len(pixels), found)
        else:
            yield _record_or_damage(name, offset, header[4:6], width, height, pixels)
            yield _header_damage(name, end, after, found, window)
        if found is None:
            break
        offset = found
    if window.failure:
        yield Damage(name, window.start + len(window.data), window.failure, "archive")
    elif offset == 0 and not header:
        yield Damage(name, 0, "the file is empty", "empty")


def _record_or_damage(
    name: str, offset: int, tag: bytes, width: int, height: int, pixels: bytes
) -> Record | Damage:
    character = decode_tag(tag)
    if not pixels:
        return Damage(name, offset, f"bitmap of {width} x {height} pixels", "zero")
    if character is None:
        return Damage(name, offset, f"tag {tag.hex(' ')} is no character", "tag")
    return Record(character, width, height, pixels, offset)


def _resumed(offset: int, found: int | None) -> str:
    if found is None:
        return "nothing readable follows"
    return f"{found - offset} bytes lost, reading goes on at {found}"


def _header_damage(
    name: str, offset: int, header: bytes, found: int | None, window: _Window
) -> Damage:
    if len(header) < HEADER.size:
        return Damage(name, offset, f"cut off: {len(header)} bytes of a header", "cut")
    size, _, width, height = HEADER.unpack(header)
    if found is None and not window.failure:
        rest = f"the rest ({window.start + len(window.data) - offset} bytes) is lost"
    else:
        rest = _resumed(offset, found)
    reason = f"size {size}, but {width} x {height} pixels need {HEADER.size + width * height}"
    return Damage(name, offset, f"{reason}; {rest}", "size")


def _cut_damage(name: str, offset: int, expected: int, have: int, found: int | None) -> Damage:
    if found is None:
        return Damage(name, offset, f"cut off: {have} of {expected} bitmap bytes", "cut")
    return Damage(name, offset, f"bitmap incomplete; {_resumed(offset, found)}", "size")


def read_gnt(stream: BinaryIO, name: str) -> Iterator[Sample | Damage]:
    """Yield `Sample` for every readable record of a .gnt stream and `Damage` for the others.

    Bitmaps are read-only views, (h, w) uint8 with 255 = paper. See `read_records`.
    """
    for item in read_records(stream, name):
        if isinstance(item, Record):
            bitmap = np.frombuffer(item.pixels, np.uint8).reshape(item.height, item.width)
            yield Sample(item.character, bitmap, item.offset)
        else:
            yield item


def write_record(stream: BinaryIO, character: str, bitmap: np.ndarray) -> None:
    """Write one record; bitmap (h, w) uint8, 255 = paper, at least one pixel."""
    if bitmap.dtype != np.uint8 or bitmap.ndim != 2 or not 0 < bitmap.size <= MAX_PIXELS:
        raise ValueError(
            f"a bitmap is (h, w) uint8 and not empty, got {bitmap.dtype} of shape {bitmap.shape}"
        )
    height, width = bitmap.shape
    if max(height, width) > 0xFFFF:
        raise ValueError(f"a .gnt bitmap has at most 65535 pixels a side, got {width} x {height}")
    stream.write(HEADER.pack(HEADER.size + bitmap.size, encode_tag(character), width, height))
    stream.write(bitmap.tobytes())
