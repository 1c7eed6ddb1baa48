"""Open .gnt files wherever they lie: loose, in folders, in .zip, in .alz, in an .alz in a .zip.

    for source in open_sources([Path("HWDB1.1tst_gnt.zip"), Path("more/")]):
        if isinstance(source, Source):
            stream = source.open()  # closed when the next source is asked for

Everything is read forwards as a stream; nothing is unpacked to disk and no name in an archive is
used as a path. Checksums are verified: a stream first delivers all it has and then raises OSError.

    .zip  store and deflate, ZIP64
    .alz  store, deflate and ALZip's own bzip2; volumes .alz .a00 .a01 ... (also inside a .zip)

Left out: encrypted archives and every other format; they are named as `Trouble`.
"""

from __future__ import annotations

import bz2
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

CHUNK = 1 << 20
SUFFIXES = (".gnt", ".zip", ".alz")
OTHER_ARCHIVES = {".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz"}


class ArchiveError(OSError):
    """An archive that cannot be read further."""


class Trouble(NamedTuple):
    """A file or archive member that cannot be read, and why."""

    name: str
    offset: int
    reason: str


@dataclass
class Source:
    """One .gnt file; `open` may be called once, before the next source is asked for.

    `name` tells where it lies (archive.zip/inner.alz/1001-c.gnt). `crc` is the CRC-32 that the
    archive states, None for a loose file. `position` tells how much of `path`, the file on disk
    that holds it, has been read.
    """

    name: str
    path: Path
    size: int
    crc: int | None
    open: Callable[[], BinaryIO]
    position: Callable[[], int]


class _Chunks(io.RawIOBase):
    """A stream over chunks. An error behind the last byte is raised when that byte is read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest, self.error = chunks, b"", None

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        """Return `count` bytes, fewer only at the end."""
        parts, have = [self.rest], len(self.rest)
        while (count < 0 or have < count) and self.error is None:
            try:
                parts.append(next(self.chunks))
            except StopIteration:
                break
            except OSError as error:
                self.error = error
                break
            have += len(parts[-1])
        data = b"".join(parts)
        if not data and self.error is not None:
            raise self.error
        if count < 0:
            count = have
        self.rest = data[count:]
        return data[:count]


def _raw(stream: BinaryIO, length: int) -> Iterator[bytes]:
    while length:
        chunk = stream.read(min(CHUNK, length))
        if not chunk:
            raise ArchiveError(f"the archive is cut off: {length} bytes of this file are missing")
        length -= len(chunk)
        yield chunk


def _inflate(chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = zlib.decompressobj(-15)
    try:
        for chunk in chunks:
            while chunk and not decoder.eof:  # in steps: a megabyte may unpack to a gigabyte
                yield decoder.decompress(chunk, CHUNK)
                chunk = decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        raise ArchiveError(f"damaged deflate data ({error})") from None


def _checked(chunks: Iterator[bytes], crc: int, size: int) -> Iterator[bytes]:
    found = have = 0
    for chunk in chunks:
        found = zlib.crc32(chunk, found)
        have += len(chunk)
        yield chunk
    if have != size:
        raise ArchiveError(f"unpacks to {have} bytes, the archive says {size}")
    if found != crc:
        raise ArchiveError(f"bad CRC: {found:08x}, the archive says {crc:08x}")


def _walk(path: Path) -> Iterator[Path]:
    """Yield the files below a folder, in order."""
    for folder, folders, names in os.walk(path):
        # Class folders of a finished tree hold nothing for us and are many.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "U+")))
        yield from (Path(folder, name) for name in sorted(names))


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files to read: paths as given, folders as the .gnt, .zip and .alz below them."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files |= {file: None for file in _walk(path) if file.name.lower().endswith(SUFFIXES)}
        elif path.exists():
            if not _is_later_volume(path):
                files[path] = None
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return list(files)


def other_archives(paths: Iterable[Path]) -> list[Path]:
    """Return the archives below the folders among the paths that are of a kind not read here."""
    files = (file for path in paths if path.is_dir() for file in _walk(path))
    return [file for file in files if file.suffix.lower() in OTHER_ARCHIVES]


def _is_later_volume(path: Path) -> bool:
    """Tell whether a file is .a00 and so on of an .alz beside it, which is read with that."""
    return bool(re.fullmatch(r"\.[a-z]\d\d", path.suffix.lower())) and any(
        path.with_suffix(suffix).exists() for suffix in (".alz", ".ALZ")
    )


def _printable(name: str) -> str:
    """Return a name from an archive without what would move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in name)


def open_sources(files: Iterable[Path]) -> Iterator[Source | Trouble]:
    """Yield every .gnt file in the files, in order; the kind of a file is told by its content."""
    for path in find_files(files):
        try:
            with path.open("rb") as stream:
                magic = stream.read(4)
                if magic in (b"PK\x03\x04", b"PK\x05\x06"):
                    yield from _zip_sources(path, stream)
                elif magic == b"ALZ\x01":
                    with _Volumes(_volume_files(path)) as volumes:
                        yield from _alz_sources(str(path), path, volumes, volumes.tell)
                elif path.suffix.lower() in (".zip", ".alz"):
                    kind = path.suffix.lower()
                    yield Trouble(str(path), 0, f"not a {kind} archive; download it again")
                else:
                    size = path.stat().st_size
                    stream.seek(0)
                    yield Source(str(path), path, size, None, lambda s=stream: s, stream.tell)
        except (OSError, struct.error, zipfile.BadZipFile) as error:
            yield Trouble(str(path), 0, getattr(error, "strerror", None) or str(error))


# -- .zip ------------------------------------------------------------------------------------------


def _zip_sources(path: Path, stream: BinaryIO) -> Iterator[Source | Trouble]:
    found = False
    try:
        members = sorted(zipfile.ZipFile(stream).infolist(), key=lambda info: info.filename)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        # Cut off: the table of contents at the end is missing, the members themselves are not.
        members = _walk_zip(stream)
        at = stream.seek(0, os.SEEK_END)
        yield Trouble(str(path), at, f"not a whole .zip ({error}); download it again")
        found = True  # said enough, whatever it holds
    for info in members:
        name = f"{path}/{_printable(info.filename)}"
        suffix = Path(info.filename).suffix.lower()
        if info.is_dir() or suffix not in (".gnt", ".alz"):
            continue
        found = True
        if suffix == ".alz":
            stem = info.filename[:-4].lower()
            volumes = [
                m
                for m in members
                if re.fullmatch(re.escape(stem) + r"\.[a-z]\d\d", m.filename.lower())
            ]
            parts = [(_zip_member(stream, m), m.file_size) for m in [info, *volumes]]
            with _Volumes(parts) as joined:
                yield from _alz_sources(name, path, joined, stream.tell)
        else:
            yield Source(
                name,
                path,
                info.file_size,
                info.CRC,
                lambda info=info: _zip_member(stream, info)(),
                stream.tell,
            )
    if not found:
        yield Trouble(str(path), 0, "holds no .gnt and no .alz file")


def _walk_zip(stream: BinaryIO) -> list[zipfile.ZipInfo]:
    """Return the members of a .zip by their own headers, as far as these tell their sizes."""
    members = []
    at = 0
    while True:
        stream.seek(at)
        header = stream.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            return members
        flags, method, _, _, crc, packed, size, name, extra = struct.unpack("<6xHHHHIIIHH", header)
        info = zipfile.ZipInfo(stream.read(name).decode("utf-8", "replace") or "?")
        if flags & 8 or 0xFFFFFFFF in (packed, size):
            return members
        info.flag_bits, info.compress_type, info.CRC = flags, method, crc
        info.compress_size, info.file_size, info.header_offset = packed, size, at
        members.append(info)
        at += 30 + name + extra + packed


def _zip_member(stream: BinaryIO, info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    """Return the opener of a member; unlike zipfile's it delivers all data before a CRC error."""

    def chunks() -> Iterator[bytes]:
        if info.flag_bits & 1:
            raise ArchiveError("encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(f"packed by .zip method {info.compress_type}; unpack it first")
        stream.seek(info.header_offset)
        header = stream.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ArchiveError(f"no file begins at byte {info.header_offset} of the .zip")
        stream.seek(sum(struct.unpack_from("<HH", header, 26)), os.SEEK_CUR)
        data = _raw(stream, info.compress_size)
        data = _inflate(data) if info.compress_type == zipfile.ZIP_DEFLATED else data
        yield from _checked(data, info.CRC, info.file_size)

    return lambda: _Chunks(chunks())


# -- .alz ------------------------------------------------------------------------------------------

VOLUME_HEAD, VOLUME_TAIL = 8, 16


def _volume_files(path: Path) -> list[tuple[Callable[[], BinaryIO], int]]:
    pattern = re.compile(re.escape(path.stem) + r"\.[a-z]\d\d", re.IGNORECASE)
    more = sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))
    return [(lambda p=p: p.open("rb"), p.stat().st_size) for p in [path, *more]]


class _Volumes:
    """The volumes of an archive, joined without their heads and tails."""

    def __init__(self, parts: list[tuple[Callable[[], BinaryIO], int]]) -> None:
        self.parts, self.index, self.stream, self.left, self.done = parts, -1, None, 0, 0

    def __enter__(self) -> _Volumes:
        return self

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            self.stream.close()

    def tell(self) -> int:
        return self.done

    def read(self, count: int) -> bytes:
        """Return at most `count` bytes, b"" at the end of the last volume."""
        while not self.left:
            if self.index + 1 == len(self.parts):
                return b""
            self.index += 1
            self.__exit__()
            opener, size = self.parts[self.index]
            self.stream = opener()
            head = VOLUME_HEAD if self.index else 0
            tail = VOLUME_TAIL if self.index + 1 < len(self.parts) else 0
            self.stream.read(head)
            self.left = max(0, size - head - tail)
        data = self.stream.read(min(count, self.left))
        self.left = self.left - len(data) if data else 0
        self.done += len(data)
        return data

    def exactly(self, count: int) -> bytes:
        """Return `count` bytes or raise ArchiveError."""
        return b"".join(_raw(self, count))


class _Entry(NamedTuple):
    name: str
    encrypted: bool
    method: int
    crc: int
    packed: int
    size: int


def _read_entry(volumes: _Volumes) -> _Entry:
    """Read the header of an .alz entry from behind its signature up to its data."""
    length, _, _, descriptor, _ = struct.unpack("<HBIBB", volumes.exactly(9))
    width = descriptor >> 4
    method = crc = packed = size = 0
    if width not in (0, 1, 2, 4, 8):
        raise ArchiveError(f"damaged .alz entry (sizes of {width} bytes)")
    if width:
        method, _, crc = struct.unpack("<BBI", volumes.exactly(6))
        packed = int.from_bytes(volumes.exactly(width), "little")
        size = int.from_bytes(volumes.exactly(width), "little")
    raw = volumes.exactly(length)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("cp949", "replace")
    if descriptor & 1:
        volumes.exactly(12)
    return _Entry(name, bool(descriptor & 1), method, crc, packed, size)


def _alz_sources(
    name: str, path: Path, volumes: _Volumes, position: Callable[[], int]
) -> Iterator[Source | Trouble]:
    """Yield the .gnt files of an .alz archive, reading it once from front to back."""
    found = False
    try:
        if volumes.exactly(8)[:4] != b"ALZ\x01":
            raise ArchiveError("not an .alz archive")
        while (signature := volumes.read(4)) and signature[:3] not in (b"CLZ", b"ELZ"):
            if signature != b"BLZ\x01":
                raise ArchiveError(f"no .alz entry begins here (found {signature!r})")
            entry = _read_entry(volumes)
            data = _raw(volumes, entry.packed)
            if entry.name.lower().endswith(".gnt"):
                found = True
                inner = f"{name}/{_printable(entry.name)}"
                yield Source(
                    inner,
                    path,
                    entry.size,
                    entry.crc,
                    lambda e=entry, d=data: _Chunks(_unpack(e, d)),
                    position,
                )
            for _ in data:  # what the reader left
                pass
        if not signature:
            raise ArchiveError("the archive is cut off: it has no end mark (a volume missing?)")
    except OSError as error:
        yield Trouble(name, volumes.tell(), str(error))
    else:
        if not found:
            yield Trouble(name, 0, "holds no .gnt file")


def _unpack(entry: _Entry, data: Iterator[bytes]) -> Iterator[bytes]:
    if entry.encrypted:
        raise ArchiveError("encrypted")
    if entry.method == 2:
        data = _inflate(data)
    elif entry.method == 1:
        data = _unbzip(data)
    elif entry.method:
        raise ArchiveError(f"packed by unknown .alz method {entry.method}")
    yield from _checked(data, entry.crc, entry.size)


# -- ALZip's bzip2 ---------------------------------------------------------------------------------
# bzip2 with blocks of 900 kB, but without the stream header and the checksums, and with other marks
# at the beginning of a block and at the end. The bz2 module refuses blocks without their checksum,
# so they are decoded here (about 2 MB/s; such archives are rare). ALZip leaves out the obsolete
# bit "randomised" as well; since not every description says so, both forms are read. So is plain
# bzip2, which some tools write.

BLOCK_MARK, END_MARK = int.from_bytes(b"DLZ\x01", "big"), int.from_bytes(b"DLZ\x02", "big")
BLOCK_SIZE = 900_000
# More than any block can take when packed; what has been read ahead of it is kept for the next one.
BLOCK_BYTES = 1 << 21


class _Bits:
    """The bits of a byte stream, the most significant first."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.data, self.at = chunks, b"", 0

    def refill(self) -> None:
        """Drop what has been read and have the whole next block at hand."""
        parts, self.at = [self.data[self.at >> 3 :]], self.at & 7
        have = len(parts[0])
        while have < BLOCK_BYTES and (chunk := next(self.chunks, b"")):
            parts.append(chunk)
            have += len(chunk)
        self.data = b"".join(parts)

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        end = self.at + count
        if end > 8 * len(self.data):
            raise ArchiveError("bzip2 data is cut off")
        value = int.from_bytes(self.data[self.at >> 3 : (end + 7) >> 3], "big") >> (-end & 7)
        self.at = end
        return value & ((1 << count) - 1)


def _unbzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    bits = _Bits(chunks)
    bits.refill()
    if bits.data.startswith(b"BZh"):
        yield from _plain_unbzip(bits)
        return
    skipped: tuple[int, ...] = (0, 1)  # bits between mark and block, as long as it is not known
    mark = bits.take(32)
    while mark != END_MARK:
        if mark != BLOCK_MARK:
            raise ArchiveError(f"damaged bzip2 data (mark {mark:08x})")
        begin = bits.at
        for skip in skipped:
            bits.at = begin + skip
            try:
                block = _unbzip_block(bits)
                mark = bits.take(32)
            except (IndexError, ValueError, ArchiveError) as error:
                problem = error
                continue
            if mark in (BLOCK_MARK, END_MARK):
                skipped = (skip,)
                break
            problem = ArchiveError(f"mark {mark:08x}")
        else:
            raise ArchiveError(f"damaged bzip2 data ({problem})")
        yield block
        bits.refill()


def _plain_unbzip(bits: _Bits) -> Iterator[bytes]:
    decoder = bz2.BZ2Decompressor()
    try:
        chunk = bits.data
        while chunk and not decoder.eof:
            yield decoder.decompress(chunk, CHUNK)
            while not decoder.needs_input and not decoder.eof:
                yield decoder.decompress(b"", CHUNK)
            chunk = next(bits.chunks, b"")
    except (OSError, ValueError) as error:
        raise ArchiveError(f"damaged bzip2 data ({error})") from None


def _unbzip_block(bits: _Bits) -> bytes:
    """Decode one block: Huffman codes, move to front, Burrows-Wheeler, run lengths."""
    origin = bits.take(24)
    groups = bits.take(16)
    used = []
    for group in range(16):
        if groups >> (15 - group) & 1:
            members = bits.take(16)
            used += [16 * group + i for i in range(16) if members >> (15 - i) & 1]
    column = _unmove(_read_symbols(bits, len(used) + 2), used)
    if origin >= len(column):
        raise ArchiveError(f"block of {len(column)} bytes begins at {origin}")
    follow = np.argsort(column, kind="stable").tolist()
    order, position = [], origin
    for _ in range(len(follow)):
        position = follow[position]
        order.append(position)
    text = column[order].tobytes()
    # Four equal bytes are followed by the number of further ones.
    return re.sub(rb"(?s)(.)\1\1\1(.)", lambda match: match[1] * (4 + match[2][0]), text)


def _read_symbols(bits: _Bits, alphabet: int) -> list[int]:
    """Read the Huffman-coded symbols of a block, without the one that ends it."""
    tables = bits.take(3)
    ranks = list(range(tables))
    selectors = []
    for _ in range(bits.take(15)):
        rank = 0
        while bits.take(1):
            rank += 1
        ranks.insert(0, ranks.pop(rank))
        selectors.append(ranks[0])
    codes = [_read_code(bits, alphabet) for _ in range(tables)]
    padded = np.frombuffer(bits.data[bits.at >> 3 :] + bytes(4), np.uint8).astype(np.uint32)
    # words[i]: the four bytes from i on, so that any 20 bits are one shift away
    words = (padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]).tolist()
    base, at = bits.at & ~7, bits.at & 7
    symbols: list[int] = []
    for selector in selectors:
        longest, lookup = codes[selector]
        shift, mask = 32 - longest, (1 << longest) - 1
        for _ in range(50):
            found = lookup[words[at >> 3] >> (shift - (at & 7)) & mask]
            at += found & 31
            symbols.append(found >> 5)
            if symbols[-1] == alphabet - 1:
                bits.at = base + at
                return symbols[:-1]
    raise ArchiveError("block without end")


def _read_code(bits: _Bits, alphabet: int) -> tuple[int, list[int]]:
    """Return (longest code, table): the next bits -> symbol << 5 | length of its code."""
    length, lengths = bits.take(5), []
    for _ in range(alphabet):
        while bits.take(1):
            length += -1 if bits.take(1) else 1
        if not 1 <= length <= 20:
            raise ArchiveError("code length")
        lengths.append(length)
    longest = max(lengths)
    order = sorted(range(alphabet), key=lengths.__getitem__)
    table = [symbol << 5 | lengths[symbol] for symbol in order]
    return longest, np.repeat(
        table, [1 << (longest - lengths[symbol]) for symbol in order]
    ).tolist()


def _unmove(symbols: list[int], recent: list[int]) -> np.ndarray:
    """Undo run lengths (symbols 0 and 1 are their binary digits) and move-to-front; uint8."""
    values: list[int] = []
    counts: list[int] = []
    weight, run, total = 1, 0, 0
    for symbol in [*symbols, -1]:
        if 0 <= symbol < 2:
            run += weight << symbol
            weight <<= 1
            if run > BLOCK_SIZE:
                raise ArchiveError("run length")
            continue
        if run:
            values.append(recent[0])
            counts.append(run)
            total += run
            run, weight = 0, 1
            if total > BLOCK_SIZE:
                raise ArchiveError("block too long")
        if symbol > 1:
            recent.insert(0, recent.pop(symbol - 1))
            values.append(recent[0])
            counts.append(1)
    return np.repeat(np.array(values, np.uint8), counts)
