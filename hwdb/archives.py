"""Find and open .gnt files: loose, in folders, in .zip, in .alz, and in an .alz in a .zip.

    files, notes = find_files([Path("HWDB1.1tst_gnt.zip"), Path("more/")])
    for item in open_files(files):
        if isinstance(item, GntFile):
            records = read_gnt(item.stream, item.name)

Members are read as streams, and no member name is used as a path. Sizes and checksums are verified:
a stream yields all its data first and raises OSError at the end. What cannot be read is yielded as
`Damage`; a file of another type is named in a note (str).

    .zip  Python's zipfile; stored and deflated members
    .alz  stored and deflated members; volumes .alz .a00 .a01 ... side by side in a folder

Left out: encrypted archives, ALZip's own bzip2, a .zip in a .zip, damaged .zip directories.
"""

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hwdb.record import Damage, other_format
from jobs.files import is_hidden

CHUNK = 1 << 16
SUFFIXES = (".gnt", ".zip", ".alz")
ARCHIVES = (".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz")
VOLUME = re.compile(r"\.[a-z]\d\d", re.IGNORECASE)  # .a00: the second volume of an .alz
UNPACK = "not read; unpack it and give its .gnt files"
ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, NotImplementedError, RuntimeError,
    EOFError, OSError,
)  # fmt: skip


class GntFile(NamedTuple):
    """One .gnt file."""

    name: str  # where it is: archive.zip/inner.alz/1001-c.gnt
    path: Path  # the file on disk that contains it
    size: int
    packed: int  # bytes in the file on disk
    crc: int | None  # as the archive states it, None for a loose file
    stream: BinaryIO  # to be read before asking for the next file


# -- streams ---------------------------------------------------------------------------------------


class _Stream:
    """What read_gnt needs of a stream, over an iterator of byte chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest, self.at = chunks, memoryview(b""), 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end only."""
        while not self.rest and (chunk := next(self.chunks, None)) is not None:
            self.rest = memoryview(chunk)
        data, self.rest = bytes(self.rest[:size]), self.rest[size:]
        self.at += len(data)
        return data


def _take(stream: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield exactly `length` bytes in chunks."""
    while length:
        chunk = stream.read(min(CHUNK, length))
        if not chunk:
            raise OSError(f"the archive is cut off: {length} bytes are missing")
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
        raise OSError(f"damaged deflate data ({error})") from None


def _verified(chunks: Iterator[bytes], size: int, crc: int) -> Iterator[bytes]:
    """Yield the chunks of a member; raise OSError at the end unless size and CRC are right."""
    found = have = 0
    for chunk in chunks:
        found = zlib.crc32(chunk, found)
        have += len(chunk)
        yield chunk
        if have > size:
            break
    if have != size:
        raise OSError(f"unpacks to {have} bytes or more, the archive states {size}")
    if found != crc:
        raise OSError(f"bad CRC: {found:08x}, the archive states {crc:08x}")


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
    """Return the files to read, and a note for each file below a folder of another format.

    Paths to files are returned as given; of folders, the .gnt, .zip and .alz files below them.
    """
    files: dict[Path, None] = {}
    notes = []
    for path in paths:
        if path.is_dir():
            for file in _walk(path):
                if file.name.lower().endswith(SUFFIXES):
                    files[file] = None
                elif what := UNPACK if file.suffix.lower() in ARCHIVES else other_format(file.name):
                    notes.append(f"{file}: {what}")
            continue
        # A pattern: the shell of Windows leaves it to the program.
        found = [path] if path.exists() else sorted(path.parent.glob(path.name))
        found = [p for p in found if p == path or not is_hidden(p.name)]
        if not found:
            raise FileNotFoundError(f"{path} does not exist")
        # Later volumes are read with the first one.
        files |= {p: None for p in found if not VOLUME.fullmatch(p.suffix)}
    return list(files), notes


def open_files(files: Iterable[Path]) -> Iterator[GntFile | Damage | str]:
    """Yield every .gnt file in the files, in order; the content decides what a file is."""
    for path in files:
        if not path.is_file():
            yield Damage(str(path), 0, "not a regular file")
            continue
        found = False
        try:
            with path.open("rb") as stream:
                for item in _open_file(path, stream):
                    found = found or not isinstance(item, str)
                    yield item
        except OSError as error:
            yield Damage(str(path), 0, error.strerror or str(error))
        else:
            if not found:
                yield Damage(str(path), 0, "contains no .gnt file")


def _open_file(path: Path, stream: BinaryIO) -> Iterator[GntFile | Damage | str]:
    magic, suffix = stream.read(4), path.suffix.lower()
    stream.seek(0)
    if magic in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from _open_zip(path, stream)
    elif magic == b"ALZ\x01":
        yield from _open_alz(str(path), path, _Stream(_join(path)))
    elif suffix in (".zip", ".alz"):
        yield Damage(str(path), 0, f"not a {suffix} archive; download it again")
    else:
        size = path.stat().st_size
        yield GntFile(str(path), path, size, size, None, stream)


def _suffix(name: str) -> str | None:
    """Return the suffix of a member; None for folders and what is hidden (`__MACOSX/...`)."""
    *folders, name = re.split(r"[/\\]", name)
    if not name or any(map(is_hidden, [*folders, name])):
        return None
    return os.path.splitext(name)[1].lower()


def _unread(name: str, suffix: str) -> Damage | str:
    """Name a member that is not read."""
    if suffix in (*SUFFIXES, *ARCHIVES) or VOLUME.fullmatch(suffix):
        return Damage(name, 0, UNPACK)
    return f"{name}: {other_format(name) or 'not a .gnt file, not read'}"


# -- .zip ------------------------------------------------------------------------------------------


def _open_zip(path: Path, stream: BinaryIO) -> Iterator[GntFile | Damage | str]:
    """Yield the .gnt files of a .zip archive."""
    try:
        archive = zipfile.ZipFile(stream)
        members = sorted(archive.infolist(), key=lambda member: member.header_offset)
        gaps = list(_gaps(stream, archive, members))
    except ZIP_ERRORS as error:
        yield Damage(str(path), 0, f"not a whole .zip archive ({error}); download it again")
        return
    yield from (Damage(str(path), *gap) for gap in gaps)
    for member in members:
        name, suffix = f"{path}/{member.filename}", _suffix(member.filename)
        content = _Stream(_unzip(archive, member))
        if suffix == ".gnt":
            yield GntFile(name, path, member.file_size, member.compress_size, member.CRC, content)
        elif suffix == ".alz":
            yield from _open_alz(name, path, content)
        elif suffix is not None:
            yield _unread(name, suffix)


def _gaps(stream: BinaryIO, archive: zipfile.ZipFile, members: list) -> Iterator[tuple[int, str]]:
    """Yield offset and description of each part of the file that no member covers.

    A directory that has lost an entry would lose its file in silence. Raises ValueError where
    members overlap: one file under a thousand names.
    """
    end = 0
    places = [(member.header_offset, member.compress_size) for member in members]
    for begin, size in [*places, (archive.start_dir, 0)]:
        if begin < end:
            raise ValueError("its directory lists files that overlap")
        if begin - end > 24:  # a data descriptor may follow a file
            yield end, f"{begin - end} bytes belong to no file of the directory"
        stream.seek(begin)
        names = struct.unpack("<26xHH", stream.read(30).ljust(30, b"\0"))
        end = begin + 30 + sum(names) + size


def _unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of a member; raise OSError at the end if size or CRC is wrong."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise OSError(f"packed with .zip method {member.compress_type}; unpack it first")
    crc, member.CRC = member.CRC, None  # zipfile would withhold the last chunk at a wrong one
    try:
        with archive.open(member) as stream:
            chunks = iter(lambda: stream.read1(CHUNK), b"")
            yield from _verified(chunks, member.file_size, crc)
    except ZIP_ERRORS as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from None


def is_whole_zip(path: Path) -> bool:
    """Return whether a .zip contains files, all with the right checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist()) and archive.testzip() is None
    except ZIP_ERRORS:
        return False


# -- .alz ------------------------------------------------------------------------------------------

STORED, DEFLATED, ENCRYPTED = 0, 2, -1  # methods; 1 is ALZip's own bzip2
VOLUME_HEAD, VOLUME_TAIL = 8, 16  # bytes


def _join(path: Path) -> Iterator[bytes]:
    """Yield the content of an archive and its later volumes without their heads and tails."""
    later = (p for p in path.parent.iterdir() if p.stem == path.stem and p.is_file())
    volumes = [path, *sorted(p for p in later if VOLUME.fullmatch(p.suffix))]
    for volume in volumes:
        left = volume.stat().st_size - (VOLUME_TAIL if volume != volumes[-1] else 0)
        with volume.open("rb") as stream:
            if volume != path:
                left -= len(stream.read(VOLUME_HEAD))
            while left > 0 and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


def _read_entry(archive: _Stream) -> tuple[str, int, int, int, int]:
    """Read an entry's header up to its data: name, method, packed size, size, CRC."""
    length, _, _, descriptor, _ = struct.unpack("<HBIBB", _exactly(archive, 9))
    width, method, packed, size, crc = descriptor >> 4, STORED, 0, 0, 0
    if width:
        method, _, crc = struct.unpack("<BBI", _exactly(archive, 6))
        packed, size = (int.from_bytes(_exactly(archive, width), "little") for _ in range(2))
    name = _exactly(archive, length).decode("utf-8", "replace")  # the number of the writer is ASCII
    if descriptor & 1:
        _exactly(archive, 12)
        method = ENCRYPTED
    return name, method, packed, size, crc


def _open_alz(name: str, path: Path, archive: _Stream) -> Iterator[GntFile | Damage | str]:
    """Yield the .gnt files of an .alz archive, read once from front to back."""
    try:
        _exactly(archive, 8)
        while (signature := _exactly(archive, 4)) == b"BLZ\x01":
            member, method, packed, size, crc = _read_entry(archive)
            inner, suffix, data = f"{name}/{member}", _suffix(member), _take(archive, packed)
            if suffix == ".gnt" and method in (STORED, DEFLATED):
                content = _verified(_inflate(data) if method else data, size, crc)
                yield GntFile(inner, path, size, packed, crc, _Stream(content))
            elif suffix == ".gnt":
                what = "encrypted or packed with ALZip's own bzip2"
                yield Damage(inner, 0, f"{what}; unpack the archive with unalz or ALZip")
            elif suffix is not None:
                yield _unread(inner, suffix)
            for _ in data:  # what the reader left
                pass
        if signature[:3] not in (b"CLZ", b"ELZ") or _contains(archive, b"BLZ\x01"):
            raise OSError("no file begins here; the rest of the archive is lost")
    except OSError as error:
        yield Damage(name, archive.at, str(error))
