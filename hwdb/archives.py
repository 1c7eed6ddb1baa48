"""Open .gnt files wherever they lie: loose, in folders, in .zip, in .alz, in an .alz in a .zip.

    for item in open_files(find_files([Path("HWDB1.1tst_gnt.zip"), Path("more/")])):
        if isinstance(item, GntFile):
            stream = item.open()  # closed when the next one is asked for

Everything is read forwards as a stream; nothing is unpacked to disk and no name in an archive is
used as a path. Checksums are verified: a stream first delivers all it has and then raises OSError.
A size is believed only if the packed data can have it. Whatever else is there is named as `Damage`,
of kind "other" if it is merely a file of another kind.

    .zip  store and deflate, ZIP64
    .alz  store and deflate; volumes .alz .a00 .a01 ... (also inside a .zip)

Left out: encrypted archives, ALZip's own bzip2, archives of any other format.
"""

import io
import os
import re
import struct
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hwdb.record import Damage

CHUNK = 1 << 20
SUFFIXES = (".gnt", ".zip", ".alz")
OTHER_ARCHIVES = (".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz")
VOLUME = re.compile(r"\.[a-z]\d\d", re.IGNORECASE)  # .a00: the second volume of an .alz
STORE, DEFLATE = 0, 8  # as .zip numbers them
MAX_RATIO = 1032  # of deflate: 258 bytes by two bits


class ArchiveError(OSError):
    """An archive that cannot be read further."""


@dataclass
class GntFile:
    """One .gnt file."""

    name: str  # tells where it lies: archive.zip/inner.alz/1001-c.gnt
    path: Path  # of the file on disk that holds it
    size: int
    crc: int | None  # that the archive states, None for a loose file
    open: Callable[[], BinaryIO]  # may be called once, before the next file is asked for
    position: Callable[[], int]  # how much of `path` has been read


class _Member(NamedTuple):
    """A file in an archive; method is STORE, DEFLATE, or why it cannot be unpacked."""

    name: str
    at: int
    method: int | str
    crc: int
    packed: int
    size: int


# -- streams ---------------------------------------------------------------------------------------


class _Chunks(io.RawIOBase):
    """A stream over chunks of one source after the other.

    An error behind the last byte of a source is raised when that byte is read, and then the next
    source follows.
    """

    def __init__(self, *sources: Iterator[bytes]) -> None:
        self.sources, self.error = list(sources), None
        self.rest, self.at, self.before = b"", 0, 0  # `at` bytes of the rest were read

    def tell(self) -> int:
        return self.before + self.at

    def _have(self, count: int) -> int:
        """Return how many bytes are at hand: `count` or more, fewer only at the end."""
        have = len(self.rest) - self.at
        if count <= have:  # copies nothing, however many there are
            return have
        parts = [self.rest[self.at :]]
        while have < count and self.sources and self.error is None:
            try:
                parts.append(next(self.sources[0]))
                have += len(parts[-1])
            except (StopIteration, OSError) as end:
                self.sources.pop(0)
                self.error = end if isinstance(end, OSError) else None
        self.before += self.at
        self.rest, self.at = b"".join(parts), 0
        return have

    def read(self, count: int = -1) -> bytes:
        """Return `count` bytes, fewer only at the end."""
        count = sys.maxsize if count < 0 else count
        if not self._have(count) and count and (error := self.error):
            self.error = None if self.sources else error
            raise error
        data = self.rest[self.at : self.at + count]
        self.at += len(data)
        return data

    def find(self, mark: bytes) -> bool:
        """Go forward to a mark, which is read next; tell whether there is one."""
        while (place := self.rest.find(mark, self.at)) < 0:
            self.at = max(self.at, len(self.rest) - len(mark) + 1)
            have = len(self.rest) - self.at
            if self._have(have + 1) == have:
                self.read(have)
                return bool(self.read(1))  # raises what ended the stream
        self.at = place
        return True


def _raw(stream: BinaryIO, length: int) -> Iterator[bytes]:
    while length:
        chunk = stream.read(min(CHUNK, length))
        if not chunk:
            raise ArchiveError(f"the archive is cut off: {length} bytes of this file are missing")
        length -= len(chunk)
        yield chunk


def _exactly(stream: BinaryIO, count: int) -> bytes:
    return b"".join(_raw(stream, count))


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


def _unpack(member: _Member, data: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of a member; in the end its size and checksum have to be right."""
    _, _, method, crc, packed, size = member
    if method not in (STORE, DEFLATE):
        raise ArchiveError(str(method))
    if size > packed * (MAX_RATIO if method == DEFLATE else 1):
        raise ArchiveError(f"{packed} packed bytes cannot hold the {size} that the archive says")
    found = have = 0
    for chunk in _inflate(data) if method == DEFLATE else data:
        found = zlib.crc32(chunk, found)
        have += len(chunk)
        yield chunk
        if have > size:
            break
    if have != size:
        raise ArchiveError(f"unpacks to {have} bytes or more, the archive says {size}")
    if found != crc:
        raise ArchiveError(f"bad CRC: {found:08x}, the archive says {crc:08x}")


# -- files -----------------------------------------------------------------------------------------


def _walk(path: Path) -> Iterator[Path]:
    """Yield the files below a folder, in order; links to folders are followed, once each."""
    seen = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        # Class folders of a finished tree hold nothing for us and are many.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "U+")))
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files to read: paths as given, folders as the .gnt, .zip and .alz below them."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files |= {file: None for file in _walk(path) if file.name.lower().endswith(SUFFIXES)}
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        elif not _is_later_volume(path):
            files[path] = None
    return list(files)


def other_archives(paths: Iterable[Path]) -> list[Path]:
    """Return the archives below the folders among the paths that are of a kind not read here."""
    files = (file for path in paths if path.is_dir() for file in _walk(path))
    return [file for file in files if file.suffix.lower() in OTHER_ARCHIVES]


def _is_later_volume(path: Path) -> bool:
    """Tell whether a file is .a00 and so on of an .alz beside it, which is read with that."""
    first = any(path.with_suffix(suffix).exists() for suffix in (".alz", ".ALZ"))
    return first and VOLUME.fullmatch(path.suffix) is not None


def _printable(name: str) -> str:
    """Return a name from an archive without what would move the cursor or end the line."""
    return "".join(c if c.isprintable() else "?" for c in name)


def open_files(files: Iterable[Path]) -> Iterator[GntFile | Damage]:
    """Yield every .gnt file in the files, in order; the kind of a file is told by its content."""
    for path in files:
        if not path.is_file():
            reason = "a link to nowhere" if path.is_symlink() else "no regular file (a pipe?)"
            yield Damage(str(path), 0, reason, "archive")
            continue
        try:
            with path.open("rb") as stream:
                magic = stream.read(4)
                if magic in (b"PK\x03\x04", b"PK\x05\x06"):
                    yield from _open_zip(path, stream)
                elif magic == b"ALZ\x01":
                    volumes = _join(_volume_files(path))
                    yield from _open_alz(str(path), path, volumes, volumes.tell)
                elif path.suffix.lower() in (".zip", ".alz"):
                    reason = f"not a {path.suffix.lower()} archive; download it again"
                    yield Damage(str(path), 0, reason, "archive")
                else:
                    size = path.stat().st_size
                    stream.seek(0)
                    yield GntFile(str(path), path, size, None, lambda s=stream: s, stream.tell)
        except OSError as error:
            yield Damage(str(path), 0, error.strerror or str(error), "archive")


def _not_read(archive: str, name: str) -> Damage:
    """Name a file in an archive that is not read."""
    if not name:
        return Damage(f"{archive}/", 0, "a file without a name, not read", "archive")
    if name.lower().endswith((*SUFFIXES, *OTHER_ARCHIVES)) or VOLUME.fullmatch(name[-4:]):
        reason = "an archive within an archive; unpack it and give its .gnt files"
        return Damage(f"{archive}/{_printable(name)}", 0, reason, "archive")
    return Damage(f"{archive}/{_printable(name)}", 0, "no .gnt file, not read", "other")


# -- .zip ------------------------------------------------------------------------------------------

OWN_HEADER = struct.Struct("<4s2xHHxxxxIIIHH")
DESCRIPTOR = 24  # bytes at most that may lie behind a file


def _open_zip(path: Path, stream: BinaryIO) -> Iterator[GntFile | Damage]:
    members, found = _zip_members(stream)
    yield from (Damage(str(path), at, reason, "archive") for at, reason in found)
    volumes = defaultdict(list)  # the later ones of each .alz, by its name without suffix
    for member in members:
        if VOLUME.fullmatch(member.name[-4:]):
            volumes[member.name[:-4].lower()].append(member)
    for member in members:
        name, lower = f"{path}/{_printable(member.name)}", member.name.lower()
        if lower.endswith(".gnt"):
            opener = _zip_stream(stream, member)
            yield GntFile(name, path, member.size, member.crc, opener, stream.tell)
        elif lower.endswith(".alz"):
            rest = sorted(volumes.pop(lower[:-4], []))
            parts = [(_zip_stream(stream, m), m.size) for m in [member, *rest]]
            yield from _open_alz(name, path, _join(parts), stream.tell)
        elif not lower.endswith("/") and not VOLUME.fullmatch(lower[-4:]):
            yield _not_read(str(path), member.name)
    yield from (_not_read(str(path), m.name) for rest in volumes.values() for m in rest)
    if not found and not any(member.name.lower().endswith((".gnt", ".alz")) for member in members):
        yield Damage(str(path), 0, "holds no .gnt and no .alz file", "archive")


def _zip_members(stream: BinaryIO) -> tuple[list[_Member], list[tuple[int, str]]]:
    """Return the members in the order they lie in, and (offset, reason) of what is wrong with them.

    The directory tells them; where there is none, or it leaves a gap, their own headers do.
    """
    members, problems = [], []
    end = stream.seek(0, os.SEEK_END)
    try:
        listed, end = _zip_directory(stream)
        whole = True
    except ArchiveError as error:
        problems.append((end, f"not a whole .zip ({error}); download it again"))
        listed, whole = [], False
    at = 0
    for member in [*listed, None]:
        until = member.at if member else end
        while until - at > DESCRIPTOR and (own := _own_header(stream, at)) and own[0].packed >= 0:
            members.append(own[0])
            if whole:
                problems.append((at, f"{_printable(own[0].name)} is missing in the directory"))
            at = own[1] + own[0].packed
        if whole and until - at > DESCRIPTOR:
            problems.append((at, f"{until - at} bytes belong to no file of the directory"))
        if member:
            own = _own_header(stream, until)
            if own and own[0].name != member.name:
                names = f"{_printable(member.name)}, its own header {_printable(own[0].name)}"
                problems.append((until, f"the directory calls a file {names}"))
                if not member.name.lower().endswith((".gnt", ".alz")):
                    member = member._replace(name=own[0].name)
            members.append(member)
            at = (own[1] if own else until) + member.packed
    return members, problems


def _zip_directory(stream: BinaryIO) -> tuple[list[_Member], int]:
    """Return the members that the directory lists, by offset, and where it begins."""
    members = []
    try:
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                method = _zip_method(info.flag_bits, info.compress_type)
                sizes = info.CRC, info.compress_size, info.file_size
                members.append(_Member(info.orig_filename, info.header_offset, method, *sizes))
            begin = archive.start_dir
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise ArchiveError(str(error) or type(error).__name__) from None
    members.sort(key=lambda member: member.at)
    ends = [0, *(member.at + OWN_HEADER.size + member.packed for member in members)]
    if any(member.at < before for member, before in zip(members, ends, strict=False)):
        raise ArchiveError("its directory lists files that overlap")
    return members, begin


def _zip_method(flags: int, method: int) -> int | str:
    if flags & 1:
        return "encrypted"
    known = method in (STORE, DEFLATE)
    return method if known else f"packed by .zip method {method}; unpack it first"


def _own_header(stream: BinaryIO, at: int) -> tuple[_Member, int] | None:
    """Return what the header at an offset says and where the data begin; None if there is none.

    Sizes that it does not tell are -1.
    """
    stream.seek(at)
    header = stream.read(OWN_HEADER.size)
    if len(header) < OWN_HEADER.size or header[:4] != b"PK\x03\x04":
        return None
    _, flags, method, crc, packed, size, length, extra = OWN_HEADER.unpack(header)
    raw = stream.read(length)
    name = raw.decode("utf-8", "replace") if flags & 0x800 else raw.decode("cp437")
    if flags & 8 or 0xFFFFFFFF in (packed, size):
        packed = size = -1
    member = _Member(name, at, _zip_method(flags, method), crc, packed, size)
    return member, at + len(header) + length + extra


def _zip_stream(stream: BinaryIO, member: _Member) -> Callable[[], BinaryIO]:
    """Return the opener of a member; unlike zipfile's it delivers all data before a CRC error."""

    def chunks() -> Iterator[bytes]:
        own = _own_header(stream, member.at)
        if own is None:
            raise ArchiveError(f"no file begins at byte {member.at} of the .zip")
        stream.seek(own[1])
        yield from _unpack(member, _raw(stream, member.packed))

    return lambda: _Chunks(chunks())


def is_whole_zip(path: Path) -> bool:
    """Tell whether a .zip has files and a directory of them all, and each its right checksum."""
    try:
        with path.open("rb") as stream:
            members, problems = _zip_members(stream)
            for member in [] if problems else members:
                content = _zip_stream(stream, member)()
                while content.read(CHUNK):
                    pass
    except OSError:
        return False
    return bool(members) and not problems


# -- .alz ------------------------------------------------------------------------------------------

VOLUME_HEAD, VOLUME_TAIL = 8, 16
ALZ_METHODS = {
    0: STORE,
    1: "packed by ALZip's own bzip2; unpack the archive with unalz or ALZip",
    2: DEFLATE,
}


def _volume_files(path: Path) -> list[tuple[Callable[[], BinaryIO], int]]:
    later = (p for p in path.parent.iterdir() if p.stem == path.stem and p.is_file())
    more = sorted(p for p in later if VOLUME.fullmatch(p.suffix))
    return [(lambda p=p: p.open("rb"), p.stat().st_size) for p in [path, *more]]


def _join(parts: list[tuple[Callable[[], BinaryIO], int]]) -> _Chunks:
    """Return the content of an archive's volumes, opener and size each, without heads and tails."""

    def volume(opener: Callable[[], BinaryIO], head: int, left: int) -> Iterator[bytes]:
        with opener() as stream:
            stream.read(head)
            while left > 0 and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    sources = []
    for number, (opener, size) in enumerate(parts):
        head = VOLUME_HEAD if number else 0
        tail = VOLUME_TAIL if number + 1 < len(parts) else 0
        sources.append(volume(opener, head, size - head - tail))
    return _Chunks(*sources)


def _read_entry(volumes: _Chunks) -> _Member:
    """Read the header of an .alz entry from behind its signature up to its data."""
    length, _, _, descriptor, _ = struct.unpack("<HBIBB", _exactly(volumes, 9))
    width = descriptor >> 4
    number = crc = packed = size = 0
    if width not in (0, 1, 2, 4, 8):
        raise ArchiveError(f"damaged .alz entry (sizes of {width} bytes)")
    if width:
        number, _, crc = struct.unpack("<BBI", _exactly(volumes, 6))
        packed = int.from_bytes(_exactly(volumes, width), "little")
        size = int.from_bytes(_exactly(volumes, width), "little")
    raw = _exactly(volumes, length)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("cp949", "replace")
    method = ALZ_METHODS.get(number, f"packed by unknown .alz method {number}")
    if descriptor & 1:
        _exactly(volumes, 12)
        method = "encrypted"
    return _Member(name, volumes.tell(), method, crc, packed, size)


def _open_alz(
    name: str, path: Path, volumes: _Chunks, position: Callable[[], int]
) -> Iterator[GntFile | Damage]:
    """Yield the .gnt files of an .alz archive, reading it once from front to back."""
    found = ended = False
    try:
        if _exactly(volumes, 8)[:4] != b"ALZ\x01":
            raise ArchiveError("not an .alz archive")
        while signature := volumes.read(4):
            at = volumes.tell() - len(signature)
            if signature != b"BLZ\x01":
                # The end mark, or damage; more files behind it would be damage as well.
                ended = signature[:3] in (b"CLZ", b"ELZ")
                if not volumes.find(b"BLZ\x01"):
                    break
                reason = f"no file begins here; reading goes on at byte {volumes.tell()}"
                yield Damage(name, at, reason, "archive")
                continue
            ended = False
            try:
                member = _read_entry(volumes)
            except ArchiveError as error:
                yield Damage(name, at, str(error), "archive")
                continue
            data = _raw(volumes, member.packed)
            if member.name.lower().endswith(".gnt"):
                found = True
                inner, chunks = f"{name}/{_printable(member.name)}", _unpack(member, data)
                stream = _Chunks(chunks)
                yield GntFile(inner, path, member.size, member.crc, lambda s=stream: s, position)
            elif not member.name.endswith(("/", "\\")):
                yield _not_read(name, member.name)
            for _ in data:  # what the reader left
                pass
        if not ended:
            raise ArchiveError("the archive is cut off: it has no end mark (a volume missing?)")
        if not found:
            raise ArchiveError("holds no .gnt file")
    except OSError as error:
        yield Damage(name, volumes.tell(), str(error), "archive")
