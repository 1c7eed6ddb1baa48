"""Sources of samples -> packs: all glyphs of a source in one memory-mapped file, made once.

    from packing import open_pack
    pack = open_pack("data/train", size=80)     # decoded in parallel on first use, then mapped
    pack.first(np.arange(4))                    # (4,80,80) uint8
    pack.proposals(0)                           # (P,80,80) uint8

A source is a tree of class folders (``U+554A``, the character itself, or any other name, which then
is the label) of image files, one ``.gnt`` file, or a folder of them. Its pack is a folder beside
it, ``<name>.pack<S>``:

    file           content
    glyphs.bin     M * S * S bytes: glyphs (S,S) uint8, 0 = paper; M >= N, proposals in sequence
    samples.npz    counts (N,) uint8 of proposals; labels (N,), writers (N,) int32, -1 if unknown
    names.jsonl    N lines, a JSON string each: image file, or .gnt file and offset of the record
    pack.json      fingerprint of the source, preprocessing, classes, writers, problems
    stamps.json    sizes and times of folders and files, to tell quickly that nothing has changed

pack.json is written last: a folder without it is not a pack. A source whose files have changed is
packed again; one that was copied is not. PyTorch is not needed here, and workers do not load it.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hwdb.characters import character_of, class_order
from hwdb.record import Damage, Record, other_format, read_gnt
from hwdb.sets import writer_of
from jobs.command import printable, progress, shorten
from jobs.files import is_hidden, only_one, read_mark, write_mark
from jobs.pool import Workers, cores
from picture import PICTURE_SUFFIXES, SETTINGS, decode_picture, proposals, read_picture

PACK_VERSION = 9  # of the format
TASK = 256  # images per task of a worker
LARGE = 1 << 28  # bytes; read_picture says why larger files are refused
STAMPS = 100_000  # files at most whose size and time are compared at every start
CACHE = Path("data") / "packs"  # packs of sources in read-only folders
NO_DATA = {"Thumbs.db", "desktop.ini", "synthesis.json"}  # files beside data, skipped silently
SPLITS = {"train", "test", "val", "valid", "validation", "trn", "tst"}
MAKE_DATA = "(python process_gnt.py makes data/train and data/test)"


# --- scan: which files a source has


class Entry(NamedTuple):
    """One file of a source: path below it, label ("" for a .gnt file), size, time."""

    path: str
    label: str
    size: int
    mtime_ns: int


class Listing(NamedTuple):
    """The files of a source in a fixed order, other files, and [size, time] of its folders."""

    entries: list[Entry]
    others: list[str]
    folders: dict[str, list[int]]


def scan(source: str | Path) -> Listing:
    """List the files of a source without hidden ones.

    `others` are files that are neither images in class folders nor .gnt files, dead links, links to
    folders within a class folder, pipes and devices. Raises FileNotFoundError if there is no such
    source, and ValueError if it holds no samples, or data sets instead of classes, or if the name
    of a class folder is not text.
    """
    source, listing = Path(source), Listing([], [], {})
    if source.is_file() and source.suffix.lower() == ".gnt":
        listing.entries.append(Entry("", "", *_stamp(source)))
        return listing
    if source.is_file():
        with open(source, "rb") as stream:
            what = other_format(source.name, stream.read(64))
        what = f"{source}: {what or 'is neither a .gnt file nor a folder'}"
        raise ValueError(f"{what}; expected class folders or .gnt files {MAKE_DATA}")
    if not source.is_dir():
        expected = f"expected class folders of images or .gnt files {MAKE_DATA}"
        raise FileNotFoundError(f"{source}: no such folder; {expected}")
    _walk(source, "", "", listing)
    if not listing.entries:
        what = "neither class folders with images nor .gnt files"
        raise ValueError(f"{source}: holds {what} {MAKE_DATA}")
    return listing


def _stamp(item: str | Path | os.DirEntry) -> list[int]:
    info = item.stat() if isinstance(item, os.DirEntry) else os.stat(item)
    return [info.st_size, info.st_mtime_ns]


def _walk(source: Path, path: str, label: str, listing: Listing) -> None:
    """Add the content of a folder to a listing; `label` is that of its class, "" at the top."""
    listing.folders[path] = _stamp(source / path)  # before it is read, so that no change is missed
    with os.scandir(source / path) as found:
        items = sorted((i for i in found if not is_hidden(i.name)), key=lambda item: item.name)
    if not label:
        labels = _labels(source, [item.name for item in items if item.is_dir()])
    for item in items:
        below = f"{path}/{item.name}" if path else item.name
        suffix = os.path.splitext(item.name)[1].lower()
        if item.is_dir(follow_symlinks=not label):  # a link may lead back up, endlessly
            _walk(source, below, label or labels[item.name], listing)
        elif suffix in (PICTURE_SUFFIXES if label else [".gnt"]) and item.is_file():
            listing.entries.append(Entry(below, label, *_stamp(item)))
        elif item.name not in NO_DATA:
            listing.others.append(below)


def _labels(source: Path, names: list[str]) -> dict[str, str]:
    """Return the label of each class folder; ValueError for data sets, and for labels not text."""
    sets = [name for name in names if name.lower() in SPLITS]
    inside = [item for name in sets for item in (source / name).iterdir()]
    if any(item.is_dir() and not is_hidden(item.name) for item in inside):
        what = f"{source}: {shorten(sets)} are data sets, not classes"
        raise ValueError(f"{what}; give one of them, as {source / sets[-1]}")
    gbk = [name for name in names if not _is_text(name)]  # as unzip leaves them, all or none
    labels = {name: character_of(name, bool(gbk)) for name in names}
    if wrong := [name for name in names if not _is_text(labels[name])]:
        what = "names of class folders are neither UTF-8 nor a character in GBK"
        raise ValueError(f"{source}: {len(wrong)} {what}: {shorten(wrong)}; rename them")
    if gbk:
        pairs = [f"{printable(name)} is {labels[name]}" for name in gbk]
        print(f"{source}: class folders named in GBK: {shorten(pairs)}", file=sys.stderr)
    return labels


def _is_text(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


# --- decode: files -> glyphs, in several processes


class Part(NamedTuple):
    """The n samples of a task in order, and what could not be read."""

    glyphs: list[np.ndarray]  # n arrays (P,S,S) uint8
    labels: list[str]
    writers: list[str]  # "" if unknown
    names: list[str]
    refused: list[tuple[str, str]]  # label, "" if damaged, and a sentence
    checksums: list[int]  # of the files


def _in_parallel(function: Callable, entries: Sequence[Entry], workers: int) -> Iterator:
    """Yield function(task) in order; a task is TASK images or one .gnt file."""
    tasks: list[list[Entry]] = []
    for entry in entries:
        if entry.label and tasks and tasks[-1][0].label and len(tasks[-1]) < TASK:
            tasks[-1].append(entry)
        else:
            tasks.append([entry])
    with Workers(max(1, min(workers or cores(), len(tasks)))) as pool:
        yield from pool.map(function, tasks)


def _checksums(root: str, task: list[Entry]) -> list[int]:
    """Return the CRC-32 of each file, 0 if it cannot be read."""
    sums = [0] * len(task)
    for i, entry in enumerate(task):
        with contextlib.suppress(OSError), open(Path(root, entry.path), "rb") as file:
            while block := file.read(1 << 20):
                sums[i] = zlib.crc32(block, sums[i])
    return sums


def _decode(root: str, size: int, task: list[Entry]) -> Part:
    """Decode a task; what cannot be read is left out."""
    cv2.setNumThreads(1)  # processes are the parallelism here
    part = Part([], [], [], [], [], [] if task[0].label else _checksums(root, task))
    for name, where, label, writer, item in _samples(root, task):
        try:
            part.glyphs.append(proposals(_pixels(item, where, part.checksums), size))
        except (ValueError, OSError) as error:
            part.refused.append((label, f"{where}: {str(error).removeprefix(f'{where}: ')}"))
        else:
            part.labels.append(label)
            part.writers.append(writer)
            part.names.append(name)
    return part


def _samples(root: str, task: list[Entry]) -> Iterator[tuple]:
    """Yield name for names.jsonl, place for people, label ("" if damaged), writer, and item."""
    for entry in task:
        path = Path(root, entry.path)
        writer = writer_of(path.name)
        if entry.label:
            yield entry.path, str(path), entry.label, writer, entry
            continue
        with open(path, "rb") as stream:
            for item in read_gnt(stream, path.name):
                name, where = f"{path.name}#{item.offset}", f"{path}: byte {item.offset}"
                label = "" if isinstance(item, Damage) else item.character
                yield name, where, label, writer, item


def _pixels(item: Entry | Record | Damage, where: str, checksums: list[int]) -> np.ndarray:
    """Return the pixels of a sample; add the checksum of an image file, which is read only once."""
    if isinstance(item, Damage):
        raise ValueError(item.reason)
    if isinstance(item, Record):
        return item.bitmap
    checksums.append(0)
    if item.size > LARGE:
        return read_picture(where)
    data = Path(where).read_bytes()
    checksums[-1] = zlib.crc32(data)
    return decode_picture(data, where)


# --- pack: glyphs -> one folder, made once


@dataclass(frozen=True)
class Pack:
    """A packed source, memory-mapped."""

    source: Path
    folder: Path
    size: int
    fingerprint: str  # of names, sizes and contents of the source's files
    classes: list[str]
    writers: list[str]
    glyphs: np.ndarray  # (M,S,S) uint8
    offsets: np.ndarray  # (N + 1,) int64: sample i has the glyphs offsets[i]...offsets[i + 1]
    labels: np.ndarray  # (N,) int32 into `classes`
    writer_ids: np.ndarray  # (N,) int32 into `writers`, -1: unknown
    problems: list[str]  # a sentence for each sample that could not be read
    refused: dict[str, int]  # their number by label, "" if damaged

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple:
        """Pickle by name: DataLoader's workers map the files themselves."""
        return _read_pack, (self.source, self.folder, self.size)

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Return the first proposal (B,S,S) uint8 of samples."""
        return self.glyphs[self.offsets[rows]]

    def proposals(self, row: int) -> np.ndarray:
        """Return all proposals (P,S,S) uint8 of a sample."""
        return self.glyphs[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def names(self) -> list[str]:
        """The file of each sample below `source`; ``FILE#OFFSET`` for a record of a .gnt file."""
        text = (self.folder / "names.jsonl").read_text(encoding="ascii")
        return json.loads(f"[{','.join(text.splitlines())}]")

    def describe(self) -> str:
        """Return what the pack holds in words."""
        writers = f"{len(self.writers)} writers" if self.writers else "writers unknown"
        text = f"{self.source}: {len(self):,} samples, {len(self.classes)} classes, {writers}"
        return text + (f", {len(self.problems)} unreadable" if self.problems else "")


def pack_folder(source: str | Path, size: int) -> Path:
    """Return the folder of a source's pack: beside it, or in data/packs if that is read-only."""
    source = Path(source).resolve()
    if os.access(source.parent, os.W_OK):
        return source.parent / f"{source.name}.pack{size}"
    digest = hashlib.sha256(str(source).encode(errors="surrogateescape")).hexdigest()[:8]
    return CACHE / f"{source.name}-{digest}.pack{size}"


def open_pack(source: str | Path, size: int = 80, workers: int = 0) -> Pack:
    """Open the pack of a source; make it first if there is none or the source has changed.

    Raises as `scan`, and ValueError if nothing is readable or another process is packing it.
    """
    source = Path(source)
    folder = pack_folder(source, size)
    mark = read_mark(folder / "pack.json", PACK_VERSION)
    pack = None
    if mark is not None and _is_current(source, folder, mark, workers):
        pack = _read_pack(source, folder, size)
    if pack is None:
        listing = scan(source)
        if listing.others:
            what = "files are skipped, neither images in class folders nor .gnt files"
            names = shorten(listing.others)
            print(f"{source}: {len(listing.others)} {what}: {names}", file=sys.stderr)
        make_pack(source, folder, listing, size, workers)
        pack = _read_pack(source, folder, size)
        assert pack is not None
    for problem in pack.problems[:10]:
        print(f"unreadable: {printable(problem)}", file=sys.stderr)
    if (more := len(pack.problems) - 10) > 0:
        print(f"unreadable: {more} more, see {folder / 'pack.json'}", file=sys.stderr)
    return pack


def _is_current(source: Path, folder: Path, mark: dict, workers: int) -> bool:
    """Return whether a pack is of the source as it is now, and of today's preprocessing.

    Times of folders and of some files (stamps.json) usually tell. If not, all files are listed, and
    if they differ from those that were packed in nothing but their times, contents are compared.
    """
    if mark.get("preprocessing") != SETTINGS:
        print(f"{source}: the preprocessing has changed, packing again", file=sys.stderr)
        return False
    stamps = (read_mark(folder / "stamps.json", PACK_VERSION) or {}).get("stamps")
    with contextlib.suppress(OSError, AttributeError):
        # Not pathlib, which takes longer than the file system.
        root = f"{source}/" if source.is_dir() else str(source)
        if stamps and all(_stamp(root + path) == stamp for path, stamp in stamps.items()):
            return True
    listing = scan(source)
    same = _digest(listing.entries) == mark.get("names")
    if same and _digest(listing.entries, _times(listing)) != mark.get("times"):
        print(f"{source}: file times have changed, comparing contents", file=sys.stderr)
        parts = _in_parallel(partial(_checksums, str(source)), listing.entries, workers)
        same = _digest(listing.entries, chain.from_iterable(parts)) == mark.get("fingerprint")
    if same:
        with contextlib.suppress(OSError):  # a read-only pack
            _write_stamps(folder, listing)
    else:
        print(f"{source}: files have changed, packing again", file=sys.stderr)
    return same


def _digest(entries: Sequence[Entry], numbers: Iterable[int] = ()) -> str:
    """Return a digest of names and sizes of files, and of a number for each."""
    digest = hashlib.sha256()
    for entry in entries:
        line = f"{entry.path}|{entry.size}\n"
        digest.update(line.encode(errors="surrogateescape"))
    for number in numbers:
        digest.update(b"%d\n" % number)
    return digest.hexdigest()


def _times(listing: Listing) -> list[int]:
    return [entry.mtime_ns for entry in listing.entries]


def _write_stamps(folder: Path, listing: Listing) -> None:
    """Note size and time of all folders and of at most STAMPS files, evenly chosen."""
    step = -(-len(listing.entries) // STAMPS)
    files = {entry.path: [entry.size, entry.mtime_ns] for entry in listing.entries[::step]}
    mark = {"version": PACK_VERSION, "stamps": listing.folders | files}
    write_mark(folder / "stamps.json", mark)


def _read_pack(source: Path, folder: Path, size: int) -> Pack | None:
    """Open a pack; None if there is none, or its files are not those that were written."""
    mark = read_mark(folder / "pack.json", PACK_VERSION)
    try:
        samples = (folder / "samples.npz").read_bytes()
        if mark.pop("checksum") != _checksum(mark, samples):
            return None
        with np.load(io.BytesIO(samples)) as arrays:
            counts, labels, writers = (arrays[name] for name in ("counts", "labels", "writers"))
        offsets = np.concatenate([[0], counts.cumsum(dtype=np.int64)])
        glyphs = np.memmap(folder / "glyphs.bin", np.uint8, "r").reshape(offsets[-1], size, size)
    except (FileNotFoundError, AttributeError, KeyError, ValueError):
        return None
    return Pack(source, folder, size, mark["fingerprint"], mark["classes"], mark["writers"], glyphs,
                offsets, labels, writers, mark["problems"], mark["refused"])  # fmt: skip


def _checksum(mark: dict, samples: bytes) -> int:
    text = json.dumps(mark, sort_keys=True)
    return zlib.crc32(text.encode(), zlib.crc32(samples))


def make_pack(source: Path, folder: Path, listing: Listing, size: int, workers: int) -> None:
    """Decode a source into `folder`; see the module's table. One process at a time.

    First it removes the pack of an earlier state, or what a killed process left. An error leaves
    nothing.
    """
    with only_one(folder, "packing"):
        for old in folder.iterdir():
            if not old.name.startswith(".lock"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        try:
            content, samples = _write_glyphs(source, folder, listing.entries, size, workers)
            (folder / "samples.npz").write_bytes(samples)
            _write_stamps(folder, listing)
            mark = {
                "version": PACK_VERSION,
                "preprocessing": SETTINGS,
                "names": _digest(listing.entries),
                "times": _digest(listing.entries, _times(listing)),
                **content,
            }
            write_mark(folder / "pack.json", mark | {"checksum": _checksum(mark, samples)})
        except BaseException as error:
            if isinstance(error, OSError) and error.strerror and error.filename is None:
                error.filename = str(folder)  # a full disk, say
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _write_glyphs(
    source: Path, folder: Path, entries: list[Entry], size: int, workers: int
) -> tuple[dict, bytes]:
    """Write glyphs and names of a pack; return what else pack.json and samples.npz hold."""
    labels, writers, counts, refused, checksums = [], [], [], [], []
    images = sum(1 for entry in entries if entry.label)
    total = images if images == len(entries) else None  # .gnt files do not tell their number
    with (
        open(folder / "glyphs.bin", "wb") as glyphs,
        open(folder / "names.jsonl", "w", encoding="ascii") as names,
        progress(total=total, desc=f"packing {source}", unit=" samples") as bar,
    ):
        for part in _in_parallel(partial(_decode, str(source), size), entries, workers):
            for some in part.glyphs:
                glyphs.write(some.tobytes())
                counts.append(len(some))
            names.writelines(json.dumps(name) + "\n" for name in part.names)
            labels += part.labels
            writers += part.writers
            refused += part.refused
            checksums += part.checksums
            bar.update(len(part.labels) + len(part.refused))
    problems = [sentence for _, sentence in refused]
    if not labels:
        first = f"; first: {problems[0]}" if problems else ""
        raise ValueError(f"{source}: none of its {len(problems)} samples could be read{first}")
    classes = sorted(set(labels), key=class_order)
    people = sorted(set(writers) - {""})
    samples = io.BytesIO()
    np.savez(
        samples,
        counts=np.array(counts, np.uint8),
        labels=_numbers(labels, classes),
        writers=_numbers(writers, people),
    )
    mark = {
        "fingerprint": _digest(entries, checksums),
        "classes": classes,
        "writers": people,
        "problems": problems,
        "refused": Counter(label for label, _ in refused),
    }
    return mark, samples.getvalue()


def _numbers(values: list[str], known: list[str]) -> np.ndarray:
    """Return the place (N,) int32 of each value among the known ones, -1 if it is not there."""
    place = {value: i for i, value in enumerate(known)}
    return np.array([place.get(value, -1) for value in values], np.int32)
