"""Find and open .gnt files: loose, in folders, in .zip, in .alz, and in a .zip or .alz in a .zip.

    for item in open_files(find_files([Path("HWDB1.1tst_gnt.zip"), Path("more/")])):
        if isinstance(item, GntFile):
            records = read_gnt(item.open(), item.name)

Members are read as streams, and no member name is used as a path. Sizes and checksums are verified:
a stream yields all its data first and raises OSError at the end. Whatever cannot be read is yielded
as `Damage`, of kind "other" if it is merely a file of another type.

    .zip  Python's zipfile; stored and deflated members
    .alz  stored and deflated members; volumes .alz .a00 .a01 ... (also inside a .zip)

Left out: encrypted archives, ALZip's own bzip2, other archive formats, damaged .zip directories.
"""

import io
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hwdb.record import Damage, other_format
from jobs.files import is_hidden

CHUNK = 1 << 16
SUFFIXES = (".gnt", ".zip", ".alz")
OTHER_ARCHIVES = (".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz")
VOLUME = re.compile(r"\.[a-z]\d\d", re.IGNORECASE)  # .a00: the second volume of an .alz
UNPACK = "is not read; unpack it and give its .gnt files"
ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, NotImplementedError, RuntimeError,
    EOFError, OSError,
)  # fmt: skip


class ArchiveError(OSError):
    """An archive or a member that cannot be read further."""


class GntFile(NamedTuple):
    """One .gnt file."""

    name: str  # where it is: archive.zip/inner.alz/1001-c.gnt
    path: Path  # the file on disk that contains it
    size: int
    crc: int | None  # as the archive states it, None for a loose file
    open: Callable[[], BinaryIO]  # call it once, before asking for the next file


# -- streams ---------------------------------------------------------------------------------------


class _Stream(io.RawIOBase):
    """A readable stream over an iterator of byte chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest, self.at = chunks, memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.rest and (chunk := next(self.chunks, None)) is not None:
            self.rest = memoryview(chunk)
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        self.at += count
        return count


def _take(stream: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield exactly `length` bytes in chunks."""
    while length:
        chunk = stream.read(min(CHUNK, length))
        if not chunk:
            raise ArchiveError(f"the archive is cut off: {length} bytes are missing")
        length -= len(chunk)
        yield chunk


def _exactly(stream: BinaryIO, length: int) -> bytes:
    return b"".join(_take(stream, length))


def _contains(stream: BinaryIO, mark: bytes) -> bool:
    """Read a stream to the end and return whether it contains a mark."""
    tail = b""
    while chunk := stream.read(CHUNK):
        if mark in (tail := tail + chunk):
            return True
        tail = tail[-len(mark) :]
    return False


def _inflate(chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = zlib.decompressobj(-15)
    try:
        for chunk in chunks:
            while chunk and not decoder.eof:  # in steps: a chunk may unpack to a thousand times
                yield decoder.decompress(chunk, CHUNK)
                chunk = decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        raise ArchiveError(f"damaged deflate data ({error})") from None


def _verified(chunks: Iterator[bytes], size: int, crc: int) -> Iterator[bytes]:
    """Yield the chunks of a member; raise ArchiveError at the end unless size and CRC are right."""
    found = have = 0
    for chunk in chunks:
        found = zlib.crc32(chunk, found)
        have += len(chunk)
        yield chunk
        if have > size:
            break
    if have != size:
        raise ArchiveError(f"unpacks to {have} bytes or more, the archive states {size}")
    if found != crc:
        raise ArchiveError(f"bad CRC: {found:08x}, the archive states {crc:08x}")


# -- files -----------------------------------------------------------------------------------------


def _walk(path: Path) -> Iterator[Path]:
    """Yield the files below a folder in order; links to folders are followed, once each."""
    seen = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        # Class folders of a converted tree contain no .gnt file and are many.
        folders[:] = sorted(n for n in folders if not (is_hidden(n) or n.startswith("U+")))
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in sorted(names) if not is_hidden(name))


def find_files(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return the files to read, and a sentence for each file below a folder of another format.

    Paths to files are returned as given; of folders, the .gnt, .zip and .alz files below them.
    """
    files: dict[Path, None] = {}
    notes = []
    for path in paths:
        if not path.is_dir():
            # A pattern: the shell of Windows leaves it to the program.
            found = [path] if path.exists() else sorted(path.parent.glob(path.name))
            if not found:
                raise FileNotFoundError(f"{path} does not exist")
            found = [p for p in found if p == path or not is_hidden(p.name)]
            files |= {file: None for file in found if not _is_later_volume(file)}
            continue
        for file in _walk(path):
            if file.name.lower().endswith(SUFFIXES):
                files[file] = None
            elif file.suffix.lower() in OTHER_ARCHIVES:
                notes.append(f"{file} {UNPACK}")
            elif reason := other_format(file.name):
                notes.append(f"{file} {reason}")
    return list(files), notes


def _is_later_volume(path: Path) -> bool:
    """Return whether a file is the volume .a00 and so on of an .alz file beside it."""
    first = any(path.with_suffix(suffix).exists() for suffix in (".alz", ".ALZ"))
    return first and VOLUME.fullmatch(path.suffix) is not None


def _printable(name: str) -> str:
    """Replace what would move the cursor or end the line."""
    return "".join(c if c.isprintable() else "?" for c in name)


def open_files(files: Iterable[Path]) -> Iterator[GntFile | Damage]:
    """Yield every .gnt file in the files, in order; the content decides what a file is."""
    for path in files:
        if not path.is_file():
            reason = "a link to nowhere" if path.is_symlink() else "not a regular file (a pipe?)"
            yield Damage(str(path), 0, reason, "archive")
            continue
        try:
            with path.open("rb") as stream:
                yield from _open_file(path, stream)
        except OSError as error:
            yield Damage(str(path), 0, error.strerror or str(error), "archive")


def _open_file(path: Path, stream: BinaryIO) -> Iterator[GntFile | Damage]:
    magic, suffix, name = stream.read(4), path.suffix.lower(), str(path)
    stream.seek(0)
    if magic in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from _open_zip(name, path, stream)
    elif magic == b"ALZ\x01":
        later = (p for p in path.parent.iterdir() if p.stem == path.stem and p.is_file())
        volumes = [path, *sorted(p for p in later if VOLUME.fullmatch(p.suffix))]
        parts = [(lambda p=p: p.open("rb"), p.stat().st_size) for p in volumes]
        yield from _open_alz(name, path, parts)
    elif suffix in (".zip", ".alz"):
        yield Damage(name, 0, f"not a {suffix} archive; download it again", "archive")
    elif reason := other_format(path.name):
        yield Damage(name, 0, reason, "other format")
    else:
        size = path.stat().st_size
        yield GntFile(name, path, size, None, lambda: stream)


def _unread(archive: str, name: str) -> Damage:
    """Name a member that is not read."""
    where = f"{archive}/{_printable(name)}"
    if name.lower().endswith((*SUFFIXES, *OTHER_ARCHIVES)) or VOLUME.fullmatch(name[-4:]):
        return Damage(where, 0, UNPACK, "archive")
    return Damage(where, 0, other_format(name) or "is not read: no .gnt file", "other")


def _is_ignored(name: str) -> bool:
    """Return whether a member is a folder, or made by the system (`__MACOSX/._1001-c.gnt`)."""
    return name.endswith(("/", "\\")) or any(map(is_hidden, re.split(r"[/\\]", name)))


# -- .zip ------------------------------------------------------------------------------------------


def _open_zip(
    name: str, path: Path, stream: BinaryIO, nested: bool = False
) -> Iterator[GntFile | Damage]:
    """Yield the .gnt files of a .zip archive."""
    try:
        archive = zipfile.ZipFile(stream)
        members = sorted(archive.infolist(), key=lambda member: member.header_offset)
        yield from (Damage(name, 0, gap, "archive") for gap in _gaps(stream, archive, members))
    except ZIP_ERRORS as error:
        yield Damage(name, 0, f"not a whole .zip archive ({error}); download it again", "archive")
        return
    members = [member for member in members if not _is_ignored(member.filename)]
    volumes = defaultdict(list)  # the later ones of each .alz, by its name without suffix
    for member in members:
        if VOLUME.fullmatch(member.filename[-4:]):
            volumes[member.filename[:-4].lower()].append(member)
    found = False
    for member in members:
        inner, lower = f"{name}/{_printable(member.filename)}", member.filename.lower()
        opener = _zip_opener(archive, member)
        if lower.endswith(".gnt"):
            found = True
            yield GntFile(inner, path, member.file_size, member.CRC, opener)
        elif lower.endswith(".alz"):
            found = True
            later = sorted(volumes.pop(lower[:-4], []), key=lambda m: m.filename)
            parts = [(_zip_opener(archive, m), m.file_size) for m in [member, *later]]
            yield from _open_alz(inner, path, parts)
        elif lower.endswith(".zip") and not nested and _is_plausible(member):
            found = True
            with tempfile.TemporaryFile() as copy:
                try:
                    shutil.copyfileobj(opener(), copy)
                except OSError as error:
                    yield Damage(inner, 0, str(error), "archive")
                yield from _open_zip(inner, path, copy, nested=True)
        elif not VOLUME.fullmatch(lower[-4:]):
            yield _unread(name, member.filename)
    yield from (_unread(name, m.filename) for rest in volumes.values() for m in rest)
    if not found:
        yield Damage(name, 0, "contains no .gnt and no .alz file", "archive")


def _gaps(stream: BinaryIO, archive: zipfile.ZipFile, members: list) -> Iterator[str]:
    """Yield a sentence for each part of the file that no member of the directory covers.

    A directory that has lost an entry would lose its file in silence. Raises ValueError where
    members overlap: one file under a thousand names.
    """
    end = 0
    places = [(member.header_offset, member.compress_size) for member in members]
    for begin, size in [*places, (archive.start_dir, 0)]:
        if begin < end:
            raise ValueError("its directory lists files that overlap")
        if begin - end > 24:  # a data descriptor may follow a file
            yield f"{begin - end} bytes from byte {end} on belong to no file of its directory"
        stream.seek(begin)
        names = struct.unpack("<26xHH", stream.read(30).ljust(30, b"\0"))
        end = begin + 30 + sum(names) + size


def _is_plausible(member: zipfile.ZipInfo) -> bool:
    """Return whether a .zip in a .zip shrank as little as one does; a bomb would fill the disk."""
    return member.file_size <= 2 * member.compress_size + CHUNK


def _zip_opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    crc = member.CRC

    def chunks() -> Iterator[bytes]:
        if member.flag_bits & 1:
            raise ArchiveError("encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(f"packed with .zip method {member.compress_type}; unpack it first")
        member.CRC = None  # zipfile would withhold the last chunk of a file with a bad checksum
        try:
            with archive.open(member) as stream:
                while chunk := stream.read1(CHUNK):
                    yield chunk
        except ZIP_ERRORS as error:
            raise ArchiveError(" ".join(str(error).split()) or type(error).__name__) from None

    return lambda: _Stream(_verified(chunks(), member.file_size, crc))


def is_whole_zip(path: Path) -> bool:
    """Return whether a .zip contains files, all with the right checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist()) and archive.testzip() is None
    except ZIP_ERRORS:
        return False


# -- .alz ------------------------------------------------------------------------------------------

VOLUME_HEAD, VOLUME_TAIL = 8, 16
Parts = list[tuple[Callable[[], BinaryIO], int]]  # opener and size of each volume


def _join(parts: Parts) -> Iterator[bytes]:
    """Yield the content of the volumes of an archive without their heads and tails."""
    for number, (opener, size) in enumerate(parts):
        left = size - (VOLUME_TAIL if number + 1 < len(parts) else 0)
        with opener() as stream:
            if number:
                left -= len(stream.read(VOLUME_HEAD))
            while left > 0 and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


def _read_entry(archive: BinaryIO) -> tuple[str, int | str, int, int, int]:
    """Read an entry's header up to its data: name, method, packed size, size, CRC.

    The method is 0 (stored), 2 (deflated), or the reason why the entry cannot be unpacked.
    """

    length, _, _, descriptor, _ = struct.unpack("<HBIBB", _exactly(archive, 9))
    width, method, packed, size, crc = descriptor >> 4, 0, 0, 0, 0
    if width not in (0, 1, 2, 4, 8):
        raise ArchiveError(f"damaged .alz entry (sizes of {width} bytes)")
    if width:
        method, _, crc = struct.unpack("<BBI", _exactly(archive, 6))
        packed, size = (int.from_bytes(_exactly(archive, width), "little") for _ in range(2))
    raw = _exactly(archive, length)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("cp949", "replace")
    if descriptor & 1:
        _exactly(archive, 12)
        method = "encrypted"
    elif method not in (0, 2):
        kind = "ALZip's own bzip2" if method == 1 else f"unknown .alz method {method}"
        method = f"packed with {kind}; unpack the archive with unalz or ALZip"
    return name, method, packed, size, crc


def _open_alz(name: str, path: Path, parts: Parts) -> Iterator[GntFile | Damage]:
    """Yield the .gnt files of an .alz archive, read once from front to back."""
    archive = _Stream(_join(parts))
    found = False
    try:
        _exactly(archive, 8)
        while (signature := _exactly(archive, 4)) == b"BLZ\x01":
            member, method, packed, size, crc = _read_entry(archive)
            data = _take(archive, packed)
            if member.lower().endswith(".gnt") and not _is_ignored(member):
                found = True
                inner = f"{name}/{_printable(member)}"
                if isinstance(method, str):
                    yield Damage(inner, 0, method, "archive")
                else:
                    content = _verified(_inflate(data) if method else data, size, crc)
                    opener = lambda content=content: _Stream(content)  # noqa: E731
                    yield GntFile(inner, path, size, crc, opener)
            elif not _is_ignored(member):
                yield _unread(name, member)
            for _ in data:  # what the reader left
                pass
        if signature[:3] not in (b"CLZ", b"ELZ") or _contains(archive, b"BLZ\x01"):
            raise ArchiveError("no file begins here; the rest of the archive is lost")
        if not found:
            raise ArchiveError("contains no .gnt file")
    except OSError as error:
        yield Damage(name, archive.at, str(error), "archive")
