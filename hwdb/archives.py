"""Find and open .gnt files: single files, in folders, in .zip, in .alz, and in .alz in .zip.

Members are read as streams, and no member name is used as a path. Sizes and checksums are verified:
a stream yields all its data first and raises OSError at the end. An unreadable part is yielded as
`Damage`; a file of another type is named in a note (str). Volumes .alz .a00 .a01 ... must be in one
folder. Not supported: encrypted archives, methods other than stored and deflated, .zip in .zip.
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
HEADERS = 500  # bytes around a member of a .zip, at most
VOLUME = re.compile(r"\.[a-z]\d\d", re.IGNORECASE)  # .a00: the second volume of an .alz


class GntFile(NamedTuple):
    """One .gnt file."""

    name: str  # where it is: archive.zip/inner.alz/1001-c.gnt
    path: Path  # the file on disk that contains it
    size: int
    packed: int  # bytes in the file on disk
    crc: int | None  # as the archive states it, None for a loose file
    stream: BinaryIO  # to be read before asking for the next file


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
    """Return the .gnt, .zip and .alz files, also below folders, and notes on other files there.

    Raises FileNotFoundError for a missing path and ValueError for a file of another format.
    """
    files, notes = {}, []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in _walk(path) if path.is_dir() else [path]:
            if file.suffix.lower() in SUFFIXES:
                files[file] = None
            elif VOLUME.fullmatch(file.suffix):
                continue  # read with the first volume
            elif file is path:
                what = other_format(path.name) or "not a .gnt, .zip or .alz file"
                raise ValueError(f"{path}: {what}")
            elif what := other_format(file.name):
                notes.append(f"{file}: {what}")
    return list(files), notes


def open_files(files: Iterable[Path]) -> Iterator[GntFile | Damage | str]:
    """Yield every .gnt file in the files, in order; the content decides what a file is."""
    for path in files:
        found = False
        try:
            for item in _open_file(path):
                found = found or not isinstance(item, str)
                yield item
            if not found:
                raise OSError("contains no .gnt file")
        except OSError as error:
            yield Damage(str(path), 0, error.strerror or str(error))


def _open_file(path: Path) -> Iterator[GntFile | Damage | str]:
    if not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as stream:
        magic, suffix = stream.read(4), path.suffix.lower()
        stream.seek(0)
        if magic in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from _open_zip(path, stream)
        elif magic == b"ALZ\x01":
            yield from _open_alz(str(path), path, _Stream(_join(path)))
        elif suffix == ".gnt":
            size = path.stat().st_size
            yield GntFile(str(path), path, size, size, None, stream)
        else:
            raise OSError(f"not a {suffix} archive; download it again")


def _suffix(name: str) -> str | None:
    """Return the suffix of a member; None for folders and what is hidden (`__MACOSX/...`)."""
    parts = re.split(r"[/\\]", name)
    if not parts[-1] or any(map(is_hidden, parts)):
        return None
    return os.path.splitext(parts[-1])[1].lower()


# -- .zip ------------------------------------------------------------------------------------------


def _open_zip(path: Path, stream: BinaryIO) -> Iterator[GntFile | Damage | str]:
    """Yield the .gnt files of a .zip archive."""
    try:
        archive = zipfile.ZipFile(stream)
    except Exception as error:  # of many kinds, all for damage
        raise OSError(f"not a whole .zip archive ({error}); download it again") from None
    members = archive.infolist()
    headers = archive.start_dir - sum(member.compress_size for member in members)
    if headers < 0:
        raise OSError("its directory lists files that overlap")
    if headers > HEADERS * (len(members) + 1):
        yield Damage(str(path), 0, "files are missing from its directory; download it again")
    for member in members:
        name, suffix = f"{path}/{member.filename}", _suffix(member.filename)
        content = _Stream(_unzip(archive, member))
        if suffix == ".gnt":
            yield GntFile(name, path, member.file_size, member.compress_size, member.CRC, content)
        elif suffix == ".alz":
            yield from _open_alz(name, path, content)
        elif suffix is not None:
            yield f"{name}: not read; unpack it if it contains .gnt files"


def _unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of a member; raise OSError at the end if size or CRC is wrong."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise OSError(f"packed with .zip method {member.compress_type}; unpack it first")
    crc, member.CRC = member.CRC, None  # zipfile would withhold the last chunk at a wrong one
    try:
        with archive.open(member) as stream:
            chunks = iter(lambda: stream.read1(CHUNK), b"")
            yield from _verified(chunks, member.file_size, crc)
    except Exception as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from None


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


def _unpack(chunks: Iterator[bytes], method: int) -> Iterator[bytes]:
    """Yield the content of a member of an .alz archive."""
    if method == STORED:
        yield from chunks
        return
    if method != DEFLATED:
        raise OSError("encrypted or in ALZip's own bzip2; unpack it with unalz or ALZip")
    decoder = zlib.decompressobj(-15)
    try:
        for chunk in chunks:
            while chunk and not decoder.eof:  # in steps: a chunk may unpack to a thousand times
                yield decoder.decompress(chunk, CHUNK)
                chunk = decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        raise OSError(f"damaged deflate data ({error})") from None


def _open_alz(name: str, path: Path, archive: _Stream) -> Iterator[GntFile | Damage | str]:
    """Yield the .gnt files of an .alz archive, read once from front to back."""
    try:
        _exactly(archive, 8)
        while (signature := _exactly(archive, 4)) == b"BLZ\x01":
            member, method, packed, size, crc = _read_entry(archive)
            inner, suffix, data = f"{name}/{member}", _suffix(member), _take(archive, packed)
            if suffix == ".gnt":
                content = _verified(_unpack(data, method), size, crc)
                yield GntFile(inner, path, size, packed, crc, _Stream(content))
            elif suffix is not None:
                yield f"{inner}: not read; unpack it if it contains .gnt files"
            for _ in data:  # what the reader left
                pass
        if signature[:3] not in (b"CLZ", b"ELZ"):
            raise OSError("no file begins here; the rest of the archive is lost")
    except OSError as error:
        yield Damage(name, archive.at, str(error))
