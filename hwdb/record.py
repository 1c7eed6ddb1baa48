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
    ...         if isinstance(item, Record):
    ...             print(item.character, item.bitmap.shape)
    ...         else:
    ...             print(item.offset, item.reason)

The reader never stops in silence: what cannot be read is yielded as `Damage`, and reading goes on
wherever the next record is beyond doubt. Archives are opened by archives.py; PNG trees are written
by process_gnt.py.
"""

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


# What else the same pages and mirrors offer, by suffix and by the first bytes of the content.
OTHER_SUFFIXES = {
    ".dgrl": "is a page of handwritten text (HWDB2.x)",
    ".pot": "contains pen trajectories (OLHWDB), not pictures",
    ".ptts": "is a page of pen trajectories (OLHWDB2.x)",
    ".wptt": "is a page of pen trajectories (OLHWDB2.x)",
    ".mpf": "contains feature vectors, not pictures",
}
RIGHT = "the pictures of characters are in Gnt1.0*.zip to Gnt1.2*.zip (.gnt files)"
OTHER_CONTENT = (
    (rb".{4}DGRL", f"{OTHER_SUFFIXES['.dgrl']}; {RIGHT}"),
    (rb".{4}MPF", f"{OTHER_SUFFIXES['.mpf']}; {RIGHT}"),
    (rb"version https://git-lfs", "is a Git LFS pointer; run git lfs pull to get the file itself"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "is a web page, not the file; download it again"),
    (rb"PK\x03\x04|ALZ\x01", "is an archive; run: python process_gnt.py FILE"),
    (rb"Rar!|7z\xbc\xaf|\x1f\x8b|BZh", "is an archive; unpack it and give its .gnt files"),
)


class Record(NamedTuple):
    """One character as it stands in the file; `pixels` holds width * height bytes."""

    character: str
    width: int
    height: int
    pixels: bytes
    offset: int  # of its record in the file

    @property
    def bitmap(self) -> np.ndarray:
        """(h, w) uint8, 255 = paper; read-only."""
        return np.frombuffer(self.pixels, np.uint8).reshape(self.height, self.width)


class Damage(NamedTuple):
    """What could not be read.

    `kind` is one of empty, cut, size, zero, tag, archive, and "other format".
    """

    source: str
    offset: int
    reason: str
    kind: str


def other_format(name: str, head: bytes = b"") -> str | None:
    """Return what a file is, by name and first bytes, if it is no .gnt file, and what to do.

    The result continues a sentence that begins with the file's name; None means it may be .gnt.
    """
    suffix = name[name.rfind(".") :].lower()
    if suffix in OTHER_SUFFIXES:
        return f"{OTHER_SUFFIXES[suffix]}; {RIGHT}"
    return next((t for magic, t in OTHER_CONTENT if re.match(magic, head, re.DOTALL)), None)


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

    def reach(self, end: int) -> int:
        """Have everything up to `end` at hand, and return where it ends: later, or at the end."""
        have = self.start + len(self.data)
        if end <= have or self.ended:
            return have
        parts = [self.data[self.floor - self.start :]]
        self.start = self.floor
        while have < end:
            try:
                chunk = self.stream.read(max(CHUNK, end - have))
            except (OSError, EOFError, ValueError) as error:
                chunk, self.failure = b"", str(error) or type(error).__name__
            if not chunk:
                self.ended = True
                break
            parts.append(chunk)
            have += len(chunk)
        self.data = b"".join(parts)
        return have

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on; fewer only where the stream ends."""
        self.reach(offset + count)
        begin = offset - self.start
        return self.data[begin : begin + count]


def _sizes(header: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a header whose size field agrees with them, else None."""
    if len(header) < HEADER.size:
        return None
    size, _, width, height = HEADER.unpack(header)
    pixels = width * height
    return (width, height) if size == HEADER.size + pixels and pixels <= MAX_PIXELS else None


@cache
def _good_tags() -> np.ndarray:
    """Return which tags, read as a number, name a character: (65536,) bool."""
    return np.array([decode_tag(tag.to_bytes(2, "little")) is not None for tag in range(1 << 16)])


class _Starts:
    """The offsets at which a record certainly begins: it has ink and a good tag, and another header
    with a good tag or the end follows. Every byte is looked at once, however often is asked."""

    def __init__(self, window: _Window) -> None:
        self.window = window
        self.found = np.empty(0, np.int64)  # of the block that was looked at last, in order
        self.end = 0  # of that block

    def next(self, offset: int, stop: int | None = None) -> int | None:
        """Return the first start from `offset` on, and before `stop`; never ask backwards."""
        while stop is None or offset < stop:
            if offset >= self.end:
                if stop is None:
                    self.window.floor = offset
                if not self._look_at_block(offset):
                    return None
            place = np.searchsorted(self.found, offset)
            if place < len(self.found):
                found = int(self.found[place])
                return found if stop is None or found < stop else None
            offset = self.end
        return None

    def _look_at_block(self, begin: int) -> bool:
        window, full = self.window, HEADER.size
        end = min(begin + CHUNK, window.reach(begin + CHUNK + full) - full + 1)
        if end <= begin:
            return False
        sizes = self._everywhere()["size"][begin - window.start : end - window.start]
        places = np.flatnonzero((sizes > full) & (sizes <= full + MAX_PIXELS)) + begin
        sizes, tags = self._headers(places)  # of few
        good = (sizes > full) & _good_tags()[tags]
        places, sizes = places[good], sizes[good]
        behind = places + sizes
        have = window.reach(int(behind.max(initial=0)) + full)
        known = behind + full <= have
        sizes, tags = self._headers(behind[known])
        good = behind == have
        good[known] = (sizes >= full) & _good_tags()[tags]
        self.found, self.end = places[good], end
        return True

    def _headers(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sizes (0 where width and height say another) and tags at these offsets."""
        some = self._everywhere()[places - self.window.start]
        size, width, height = (some[name].astype(np.int64) for name in ("size", "width", "height"))
        agree = (size == HEADER.size + width * height) & (width * height <= MAX_PIXELS)
        return np.where(agree, size, 0), some["tag"]

    def _everywhere(self) -> np.ndarray:
        """Return a view of the headers that would begin at each byte of the window."""
        data = self.window.data
        return np.ndarray((max(0, len(data) - HEADER.size + 1),), LAYOUT, data, 0, (1,))


def read_gnt(stream: BinaryIO, name: str) -> Iterator[Record | Damage]:
    """Yield every record of a .gnt stream in order, and a `Damage` for all that is none.

    The stream is only read forwards, and no more than a few records of it are held. After damage
    reading goes on at the next place where two records follow each other (or one ends the file).
    What lies between two items that do not follow each other belongs to the first, a `Damage`.
    Errors of the stream itself (a failed checksum, a disk error) end it and become a `Damage`.
    """
    window = _Window(stream)
    starts = _Starts(window)
    offset: int | None = 0
    while offset is not None and (header := window.read(offset, HEADER.size)):
        begin = window.floor = offset
        sizes = _sizes(header)
        if sizes is None:
            if begin == 0 and (reason := other_format(name, window.read(0, 64))):
                yield Damage(name, 0, reason, "other format")
                return
            offset = starts.next(begin + 1)
            yield Damage(name, begin, *_header_damage(begin, header, offset, window))
            continue
        width, height = sizes
        pixels = width * height
        end = begin + HEADER.size + pixels
        missing = end - window.reach(end + HEADER.size)
        after = window.read(end, HEADER.size)
        inside = None
        if missing > 0 or (after and _sizes(after) is None):
            # Bytes are missing: in this record if another begins inside it, else behind it.
            inside = starts.next(begin + HEADER.size, end)
        if inside is not None:
            yield Damage(name, begin, f"bitmap incomplete; {_resumed(begin, inside)}", "size")
        elif missing > 0:
            have = f"{pixels - missing} of {pixels}"
            yield Damage(name, begin, f"cut off: {have} bitmap bytes", "cut")
        elif not pixels:
            yield Damage(name, begin, f"bitmap of {width} x {height} pixels", "zero")
        elif (character := decode_tag(header[4:6])) is None:
            yield Damage(name, begin, f"tag {header[4:6].hex(' ')} is no character", "tag")
        else:
            bitmap = window.read(begin + HEADER.size, pixels)
            yield Record(character, width, height, bitmap, begin)
        offset = inside if inside is not None or missing > 0 else end
    if window.failure:
        yield Damage(name, window.start + len(window.data), window.failure, "archive")
    elif offset == 0:
        yield Damage(name, 0, "the file is empty", "empty")


def _resumed(offset: int, found: int | None) -> str:
    if found is None:
        return "nothing readable follows"
    return f"{found - offset} bytes lost, reading goes on at {found}"


def _header_damage(
    offset: int, header: bytes, found: int | None, window: _Window
) -> tuple[str, str]:
    """Return reason and kind of the damage of a header."""
    if len(header) < HEADER.size:
        return f"cut off: {len(header)} bytes of a header", "cut"
    size, _, width, height = HEADER.unpack(header)
    rest = _resumed(offset, found)
    if found is None and not window.failure:
        rest = f"the rest ({window.start + len(window.data) - offset} bytes) is lost"
    reason = f"size {size}, but {width} x {height} pixels need {HEADER.size + width * height}"
    if size == HEADER.size + width * height:
        reason = f"{width} x {height} pixels, more than {MAX_PIXELS}"
    return f"{reason}; {rest}", "size"


def write_record(stream: BinaryIO, character: str, bitmap: np.ndarray) -> None:
    """Write one record; bitmap (h, w) uint8, 255 = paper, at least one pixel."""
    if bitmap.dtype != np.uint8 or bitmap.ndim != 2 or not 0 < bitmap.size <= MAX_PIXELS:
        said = f"got {bitmap.dtype} of shape {bitmap.shape}"
        raise ValueError(f"a bitmap is (h, w) uint8 and not empty, {said}")
    height, width = bitmap.shape
    if max(height, width) > 0xFFFF:
        raise ValueError(f"a .gnt bitmap has at most 65535 pixels a side, got {width} x {height}")
    stream.write(HEADER.pack(HEADER.size + bitmap.size, encode_tag(character), width, height))
    stream.write(bitmap.tobytes())
