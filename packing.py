"""Decode the samples of a source once into a memory-mapped file, the pack, without PyTorch.

    pack = open_pack("data/train", size=80)     # decoded in parallel on first use, then mapped
    pack.first(np.arange(4))                    # (4,80,80) uint8

A source is a tree of class folders (``U+554A``, the character itself, or any other name, which then
is the label) of image files, one ``.gnt`` file, or a folder of ``.gnt`` files. Its pack is a folder
beside it, ``<name>.pack<S>``:

    file           content
    glyphs.bin     (M,S,S) uint8, 0 = paper: all proposals of sample 0, of sample 1, ...; M >= N
    samples.npz    counts (N,) uint8 of proposals, their priors (M,) float32; labels (N,), writers
                   (N,) int32, -1 if unknown
    names.jsonl    N lines, a JSON string each: image file, or .gnt file and offset of the record
    stamps.json    sizes and times of the source's folders and files
    pack.json      fingerprint of the source, preprocessing, classes, writers, problems

pack.json is written last: a folder without it is not a pack. A source is packed again if sizes or
times differ from stamps.json; the fingerprint depends on the contents only.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hwdb.characters import character_of, class_order
from hwdb.record import Damage, Record, other_format, read_gnt
from hwdb.sets import writer_of
from jobs.command import printable, progress, shorten
from jobs.files import checksum_of, is_hidden, only_one, read_mark, write_mark
from jobs.pool import Workers, cores
from picture import PICTURE_SUFFIXES, SETTINGS, Proposals, cv2, find_proposals, read_picture

PACK_VERSION = 11  # of the format
TASK = 256  # images per task of a worker
STAMPS = 100_000  # files at most whose size and time are compared at every start
CACHE = Path("data") / "packs"  # packs of sources in read-only folders
NO_DATA = {"Thumbs.db", "desktop.ini", "synthesis.json"}  # skipped without a notice
SPLITS = {"train", "test", "val", "valid", "validation", "trn", "tst"}
UNDECODED = re.compile("[\ud800-\udfff]")  # bytes of a file name that are not UTF-8
EXPECTED = "expected class folders of images (python process_gnt.py makes them) or .gnt files"


class Entry(NamedTuple):
    """One file of a source."""

    path: str  # below the source; "" if the source is the file
    label: str  # "" for a .gnt file
    stamp: list[int]  # size and time


class Listing(NamedTuple):
    """The content of a source, in a fixed order."""

    entries: list[Entry]
    others: list[str]  # what is not read: other files, dead links, pipes, devices
    folders: dict[str, list[int]]  # size and time of each


def scan(source: str | Path) -> Listing:
    """List the files of a source without hidden ones.

    Raises FileNotFoundError if there is no such source, and ValueError if it holds no samples, data
    sets instead of classes, or a class folder whose name is not text.
    """
    source, listing = Path(source), Listing([], [], {})
    if source.is_dir():
        _walk(source, "", "", listing)
        if not listing.entries:
            raise ValueError(f"{source}: holds no samples; {EXPECTED}")
    elif not source.is_file():
        raise FileNotFoundError(f"{source}: no such folder; {EXPECTED}")
    elif source.suffix.lower() == ".gnt":
        listing.entries.append(Entry("", "", _stamp(source)))
    else:
        with open(source, "rb") as stream:
            what = other_format(source.name, stream.read(64)) or "neither a .gnt file nor a folder"
        raise ValueError(f"{source}: {what}; {EXPECTED}")
    return listing


def _stamp(path: Path | os.DirEntry) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _walk(source: Path, path: str, label: str, listing: Listing) -> None:
    """Add the content of a folder to a listing; `label` is that of its class, "" at the top."""
    listing.folders[path] = _stamp(source / path)  # before it is read, so that no change is missed
    with os.scandir(source / path) as found:
        items = sorted(found, key=lambda item: item.name)  # packs of single files are no samples
    items = [i for i in items if not (is_hidden(i.name) or re.search(r"\.pack\d+$", i.name))]
    if not label:
        labels = _labels(source, [item.name for item in items if item.is_dir()])
    for item in items:
        below = f"{path}/{item.name}" if path else item.name
        suffix = os.path.splitext(item.name)[1].lower()
        if item.is_dir(follow_symlinks=not label):  # a link may lead back up, endlessly
            _walk(source, below, label or labels[item.name], listing)
        elif suffix in (PICTURE_SUFFIXES if label else [".gnt"]) and item.is_file():
            listing.entries.append(Entry(below, label, _stamp(item)))
        elif item.name not in NO_DATA:
            listing.others.append(below)


def _labels(source: Path, names: list[str]) -> dict[str, str]:
    """Return the label of each class folder."""
    if sets := [name for name in names if name.lower() in SPLITS]:
        what = f"{source}: {shorten(sets)} are data sets, not classes"
        raise ValueError(f"{what}; give one of them, as {source / sets[-1]}")
    gbk = [name for name in names if UNDECODED.search(name)]  # as unzip leaves them, all or none
    labels = {name: character_of(name, bool(gbk)) for name in names}
    if wrong := [name for name in names if UNDECODED.search(labels[name])]:
        what = "names of class folders are neither UTF-8 nor a character in GBK"
        raise ValueError(f"{source}: {len(wrong)} {what}: {shorten(wrong)}; rename them")
    if gbk:
        pairs = [f"{printable(name)} is {labels[name]}" for name in gbk]
        print(f"{source}: class folders named in GBK: {shorten(pairs)}", file=sys.stderr)
    return labels


def _decode(source: Path, size: int, task: list[Entry]) -> tuple[list[tuple], list[int]]:
    """Return the samples of a task, and the checksums of its files, 0 of those it cannot read.

    A sample is its name, label, writer ("" if unknown), and proposals; or instead of these
    why it cannot be read, with label "" if it is a damaged record.
    """
    cv2.setNumThreads(1)  # processes are the parallelism here
    samples, checksums = [], []
    for entry in task:
        path = source / entry.path
        checksums.append(0)
        with contextlib.suppress(OSError):
            checksums[-1] = checksum_of(path)
        writer = writer_of(path.name)
        for name, place, label, item in _items(path, entry):
            try:
                if isinstance(item, Damage):
                    raise ValueError(item.reason)
                pixels = item.bitmap if isinstance(item, Record) else read_picture(item)
                result = find_proposals(pixels, size)._replace(inks=[])
            except (ValueError, OSError) as error:
                result = f"{place}: {str(error).removeprefix(f'{place}: ')}"
            samples.append((name, label, writer, result))
    return samples, checksums


def _items(path: Path, entry: Entry) -> Iterator[tuple[str, str, str, Path | Record | Damage]]:
    """Yield name, place for messages, label and content of each sample of a file."""
    if entry.label:
        yield entry.path, str(path), entry.label, path
        return
    with open(path, "rb") as stream:
        for item in read_gnt(stream, path.name):
            label = "" if isinstance(item, Damage) else item.character
            yield f"{path.name}#{item.offset}", f"{path}: byte {item.offset}", label, item


@dataclass(frozen=True)
class Pack:
    """A packed source, memory-mapped."""

    source: Path
    folder: Path
    size: int
    glyphs: np.ndarray  # (M,S,S) uint8
    priors: np.ndarray  # (M,) float32, see picture.Proposals
    offsets: np.ndarray  # (N + 1,) int64: sample i has the glyphs offsets[i]...offsets[i + 1]
    labels: np.ndarray  # (N,) int32 into `classes`
    writer_ids: np.ndarray  # (N,) int32 into `writers`, -1: unknown
    fingerprint: str  # of names, sizes and contents of the source's files
    classes: list[str]
    writers: list[str]
    problems: list[str]  # a message for each sample that could not be read
    refused: dict[str, int]  # their number by label, "" if damaged

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple:
        """Pickle by name: DataLoader's workers map the files themselves."""
        return _read_pack, (self.source, self.folder, self.size)

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Return the first proposal (B,S,S) uint8 of samples."""
        return self.glyphs[self.offsets[rows]]

    def proposals(self, row: int) -> Proposals:
        """Return all proposals of a sample, without the ink of the picture."""
        here = slice(self.offsets[row], self.offsets[row + 1])
        return Proposals(self.glyphs[here], [], self.priors[here])

    @cached_property
    def names(self) -> list[str]:
        """The file of each sample below `source`; ``FILE#OFFSET`` for a record of a .gnt file."""
        text = (self.folder / "names.jsonl").read_text(encoding="ascii")
        return json.loads(f"[{','.join(text.splitlines())}]")


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts: "1 class", "1,000 classes"."""
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural}"


def pack_folder(source: str | Path, size: int) -> Path:
    """Return the folder of a source's pack: beside it, or in data/packs if that is read-only."""
    source = Path(source).resolve()
    beside = source.parent / f"{source.name}.pack{size}"
    with contextlib.suppress(OSError):
        if os.access(source.parent, os.W_OK):
            if sys.platform == "win32" and not beside.exists():  # os.access always says yes
                beside.mkdir()
                beside.rmdir()
            return beside
    digest = hashlib.sha256(str(source).encode(errors="surrogateescape")).hexdigest()[:8]
    return CACHE / f"{source.name}-{digest}.pack{size}"


def open_pack(source: str | Path, size: int = 80, workers: int = 0) -> Pack:
    """Open the pack of a source; make it first if there is none or the source has changed.

    Raises as `scan`, and ValueError if nothing is readable or another process is packing it.
    """
    source, folder = Path(source), pack_folder(source, size)
    pack = _read_pack(source, folder, size) if _is_current(source, folder) else None
    if pack is None:
        if (folder / "pack.json").exists():
            print(f"{source}: files or preprocessing have changed, packing again", file=sys.stderr)
        _make_pack(source, folder, size, workers)
        pack = _read_pack(source, folder, size)
    for problem in pack.problems[:10]:
        print(f"unreadable: {printable(problem)}", file=sys.stderr)
    if len(pack.problems) > 10:
        print(f"unreadable: {len(pack.problems)} in all, see {folder}/pack.json", file=sys.stderr)
    return pack


def _is_current(source: Path, folder: Path) -> bool:
    """Return whether sizes and times of a source are those that were packed."""
    stamps = (read_mark(folder / "stamps.json", PACK_VERSION) or {}).get("stamps")
    with contextlib.suppress(OSError):
        return bool(stamps) and all(_stamp(source / p) == stamp for p, stamp in stamps.items())
    return False


def _digest(entries: list[Entry], checksums: list[int]) -> str:
    """Return the fingerprint of a source: a digest of names, sizes and checksums of its files."""
    lines = [f"{entry.path}|{entry.stamp[0]}\n" for entry in entries]
    lines += [f"{checksum}\n" for checksum in checksums]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _read_pack(source: Path, folder: Path, size: int) -> Pack | None:
    """Open a pack; None if its files are missing, damaged, or of another preprocessing."""
    mark = read_mark(folder / "pack.json", PACK_VERSION) or {}
    try:
        samples = (folder / "samples.npz").read_bytes()
        if mark.pop("checksum") != _checksum(mark, samples) or mark["preprocessing"] != SETTINGS:
            return None
        with np.load(io.BytesIO(samples)) as arrays:
            names = "counts", "priors", "labels", "writers"
            counts, priors, labels, writer_ids = (arrays[name] for name in names)
        offsets = np.concatenate([[0], counts.cumsum(dtype=np.int64)])
        glyphs = np.memmap(folder / "glyphs.bin", np.uint8, "r").reshape(offsets[-1], size, size)
    except (FileNotFoundError, KeyError, ValueError):
        return None
    known = {key: mark[key] for key in ("fingerprint", "classes", "writers", "problems", "refused")}
    return Pack(source, folder, size, glyphs, priors, offsets, labels, writer_ids, **known)


def _checksum(mark: dict, samples: bytes) -> int:
    """Return the CRC-32 of the contents of pack.json and samples.npz."""
    return zlib.crc32(json.dumps(mark, sort_keys=True).encode(), zlib.crc32(samples))


def _make_pack(source: Path, folder: Path, size: int, workers: int) -> None:
    """Decode a source into `folder`, one process at a time; an error leaves nothing there."""
    listing = scan(source)
    if listing.others:
        what = (
            f"{counted(len(listing.others), 'file')} skipped, not images in class folders or .gnt"
        )
        print(f"{source}: {what}: {shorten(listing.others)}", file=sys.stderr)
    step = -(-len(listing.entries) // STAMPS)
    files = {entry.path: entry.stamp for entry in listing.entries[::step]}
    stamps = {"version": PACK_VERSION, "stamps": listing.folders | files}
    with only_one(folder):
        for old in folder.iterdir():
            if not old.name.startswith(".lock"):
                old.unlink()
        try:
            write_mark(folder / "stamps.json", stamps)
            _write_pack(source, folder, size, listing, workers)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _write_pack(source: Path, folder: Path, size: int, listing: Listing, workers: int) -> None:
    """Write the files of a pack; see the table at the top."""
    step = TASK if listing.entries[0].label else 1  # .gnt files have many samples each
    tasks = [listing.entries[i : i + step] for i in range(0, len(listing.entries), step)]
    labels, writers, counts, priors, refused, checksums = [], [], [], [], [], []
    with (
        Workers(min(workers or cores(), len(tasks))) as pool,
        open(folder / "glyphs.bin", "wb") as glyphs,
        open(folder / "names.jsonl", "w", encoding="ascii") as names,
    ):
        decoded = pool.map(partial(_decode, source, size), tasks)
        for samples, sums in progress(decoded, total=len(tasks), desc=f"packing {source}"):
            for name, label, writer, result in samples:
                if isinstance(result, str):
                    refused.append((label, result))
                    continue
                glyphs.write(result.glyphs.tobytes())
                priors.append(result.priors)
                names.write(json.dumps(name) + "\n")
                counts.append(len(result.glyphs))
                labels.append(label)
                writers.append(writer)
            checksums += sums
    problems = [message for _, message in refused]
    if not labels:
        what = f"{source}: none of its {len(problems)} samples could be read"
        raise ValueError(f"{what}; first: {problems[0]}")
    classes, people = sorted(set(labels), key=class_order), sorted(set(writers) - {""})
    np.savez(
        folder / "samples.npz",
        counts=np.array(counts, np.uint8),
        priors=np.concatenate(priors),
        labels=_indices(labels, classes),
        writers=_indices(writers, people),
    )
    mark = {
        "version": PACK_VERSION,
        "preprocessing": SETTINGS,
        "fingerprint": _digest(listing.entries, checksums),
        "classes": classes,
        "writers": people,
        "problems": problems,
        "refused": Counter(label for label, _ in refused),
    }
    mark["checksum"] = _checksum(mark, (folder / "samples.npz").read_bytes())
    write_mark(folder / "pack.json", mark)


def _indices(values: list[str], known: list[str]) -> np.ndarray:
    """Return the index (N,) int32 of each value in `known`, -1 if it is not there."""
    index = {value: i for i, value in enumerate(known)}
    return np.array([index.get(value, -1) for value in values], np.int32)
