"""Read and write the .gnt records of the CASIA handwriting databases.

A .gnt file has no header. It is a sequence of records, little-endian:

    bytes  type    meaning
    4      uint32  size of the record, always 10 + width * height
    2      bytes   tag: the character in GB code (read as gb18030); ASCII is padded with NUL
    2      uint16  width
    2      uint16  height
    w * h  uint8   bitmap, row by row, 255 = paper

The reader never stops silently: an unreadable part is yielded as `Damage`, and reading continues
where the next record certainly begins.
"""

import math
import re
import struct
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO, NamedTuple

import numpy as np

HEADER = struct.Struct("<I2sHH")
LAYOUT = np.dtype([("size", "<u4"), ("tag", "<u2"), ("width", "<u2"), ("height", "<u2")])
# Beyond any handwritten character; keeps a damaged header from asking for gigabytes.
MAX_PIXELS = 1 << 24
CHUNK = 1 << 20

# Other files from the same pages and mirrors, by suffix and by the first bytes of the content.
RIGHT = "images of characters are in the archives Gnt1.0*.zip to Gnt1.2*.zip"
OTHER_SUFFIXES = {
    r"dgrl": f"a page of handwritten text (HWDB2.x); {RIGHT}",
    r"pot|ptts|wptt": f"pen trajectories (OLHWDB); {RIGHT}",
    r"mpf": f"feature vectors; {RIGHT}",
    r"rar|7z|tar|t?gz|bz2|xz": "an archive; unpack it and give its .gnt files",
}
OTHER_CONTENT = {
    rb"(?s).{4}DGRL": OTHER_SUFFIXES["dgrl"],
    rb"(?s).{4}MPF": OTHER_SUFFIXES["mpf"],
    # .pot: size in 2 bytes, tag of a character in 4, number of strokes in 2
    rb"(?s)..[\x21-\xfe]{2}\0\0[\x01-\x40]\0": OTHER_SUFFIXES["pot|ptts|wptt"],
    rb"version https://git-lfs": "a Git LFS pointer; run git lfs pull to get the file itself",
    rb"(?i)\s*<(!doctype|html|\?xml)": "a web page, not the file; download it again",
    rb"PK\x03\x04|ALZ\x01": "an archive; run: python process_gnt.py FILE",
}


class Record(NamedTuple):
    """One character; `pixels` contains width * height bytes."""

    character: str
    width: int
    height: int
    pixels: bytes
    offset: int  # of the record in the file

    @property
    def bitmap(self) -> np.ndarray:
        """(h, w) uint8, 255 = paper; read-only."""
        return np.frombuffer(self.pixels, np.uint8).reshape(self.height, self.width)


class Damage(NamedTuple):
    """A part of a file that could not be read."""

    source: str
    offset: int
    reason: str


def other_format(name: str, head: bytes = b"") -> str | None:
    """Return what a file is, by its name and first bytes; None if it may be a .gnt file."""
    suffix = name.rpartition(".")[2].lower()
    found = [what for pattern, what in OTHER_SUFFIXES.items() if re.fullmatch(pattern, suffix)]
    found += [what for pattern, what in OTHER_CONTENT.items() if re.match(pattern, head)]
    return found[0] if found else None


def encode_tag(character: str) -> bytes:
    """Return the two tag bytes of a character; ValueError if it has no two-byte GB code."""
    tag = character.encode("gb18030") if len(character) == 1 else b""
    if not 1 <= len(tag) <= 2:
        raise ValueError(f"{character!r} has no two-byte GB code, so a .gnt file cannot hold it")
    return tag.ljust(2, b"\0")


@cache
def decode_tag(tag: bytes) -> str | None:
    """Return the character of two tag bytes, or None if they name none."""
    character = tag.strip(b"\0").decode("gb18030", "replace")
    if len(character) != 1 or character == "\ufffd":
        return None
    # Private use (Co) is what gb18030 makes of the unassigned codes; Zs and Cc show nothing.
    return None if unicodedata.category(character) in ("Co", "Cn", "Cc", "Zs") else character


class _Window:
    """The part of a stream from `floor` on, read as it is asked for."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.data = b""
        self.start = self.end = 0  # offsets of the data
        self.floor = 0  # nothing before this offset is needed any more
        self.ended = False
        self.failure: str | None = None

    def reach(self, end: int) -> int:
        """Read on up to `end` at least; return the new end, smaller only where the stream ends."""
        if end <= self.end or self.ended:
            return self.end
        parts = [self.data[self.floor - self.start :]]
        self.start = self.floor
        while self.end < end and not self.ended:
            try:
                chunk = self.stream.read(max(CHUNK, end - self.end))
            except OSError as error:
                chunk, self.failure = b"", str(error)
            self.ended = not chunk
            self.end += len(chunk)
            parts.append(chunk)
        self.data = b"".join(parts)
        return self.end

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on; fewer only where the stream ends."""
        self.reach(offset + count)
        begin = offset - self.start
        return self.data[begin : begin + count]

    def find(self, offset: int, stop: float = math.inf) -> int | None:
        """Return the first offset below `stop` at which a record certainly begins, or None.

        Certain is a header with a good tag whose record is followed by another header or the end.
        """
        block = 1 << 10  # it grows: the time is linear in the distance
        while offset < stop:
            if stop == math.inf:
                self.floor = offset
            have = self.reach(offset + block + HEADER.size - 1)
            count = int(min(block, have - HEADER.size + 1 - offset, stop - offset))
            if count <= 0:
                return None
            headers = np.ndarray((count,), LAYOUT, self.data, offset - self.start, (1,))
            size, width, height = (headers[n].astype(np.int64) for n in ("size", "width", "height"))
            for place in np.flatnonzero(size == HEADER.size + width * height).tolist():
                if self._is_record(offset + place):
                    return offset + place
            offset += count
            block = min(2 * block, CHUNK)
        return None

    def _is_record(self, offset: int) -> bool:
        header = self.read(offset, HEADER.size)
        if not (size := _record_size(header)) or decode_tag(header[4:6]) is None:
            return False
        return self.reach(offset + size) >= offset + size and self.is_followed(offset + size)

    def is_followed(self, end: int) -> bool:
        """Return whether a header or the end of the stream is at `end`."""
        header = self.read(end, HEADER.size)
        return not header or _record_size(header) > 0


def _record_size(header: bytes) -> int:
    """Return the size of a record with ink whose header agrees with itself, else 0."""
    if len(header) < HEADER.size:
        return 0
    size, _, width, height = HEADER.unpack(header)
    pixels = width * height
    return size if size == HEADER.size + pixels and 0 < pixels <= MAX_PIXELS else 0


def read_gnt(stream: BinaryIO, name: str) -> Iterator[Record | Damage]:
    """Yield every record of a .gnt stream in order, and a `Damage` for all that is none.

    The stream is only read forwards, and no more than a few records of it are held. An OSError of
    the stream (a failed checksum, a disk error) ends it and becomes a `Damage`.
    """
    window = _Window(stream)
    head = window.read(0, 64)
    offset: int | None = 0
    while offset is not None and (header := window.read(offset, HEADER.size)):
        begin = window.floor = offset
        end = begin + _record_size(header)
        if begin < end <= window.reach(end):
            # A record within this one: bytes of this one are missing.
            offset = None if window.is_followed(end) else window.find(begin + HEADER.size, end)
            if offset is None:
                offset = end
                if character := decode_tag(header[4:6]):
                    _, _, width, height = HEADER.unpack(header)
                    pixels = window.read(begin + HEADER.size, width * height)
                    yield Record(character, width, height, pixels, begin)
                else:
                    yield Damage(name, begin, f"tag {header[4:6].hex(' ')} is no character")
                continue
        else:
            offset = window.find(begin + 1)
        lost = (window.end if offset is None else offset) - begin
        what = other_format(name, head) if begin == 0 and offset is None else None
        yield Damage(name, begin, what or f"{lost} bytes are not a whole record")
    if window.failure:
        yield Damage(name, window.end, window.failure)
    elif offset == 0:
        yield Damage(name, 0, "the file is empty")


def write_record(stream: BinaryIO, character: str, bitmap: np.ndarray) -> None:
    """Write one record; bitmap (h, w) uint8, 255 = paper, at least one pixel."""
    fits = 0 < bitmap.size <= MAX_PIXELS and max(bitmap.shape) <= 0xFFFF
    if bitmap.dtype != np.uint8 or bitmap.ndim != 2 or not fits:
        what = f"(h, w) uint8, 1 to {MAX_PIXELS:,} pixels, at most 65,535 a side"
        raise ValueError(f"a bitmap is {what}, got {bitmap.dtype} of shape {bitmap.shape}")
    height, width = bitmap.shape
    stream.write(HEADER.pack(HEADER.size + bitmap.size, encode_tag(character), width, height))
    stream.write(bitmap.tobytes())
