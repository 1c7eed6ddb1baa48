"""Sources of samples -> packs: one memory-mapped array of glyphs a source, made once.

    from packing import open_pack
    pack = open_pack("data/train", size=80)     # decoded in parallel on first use, then mapped
    pack.first(np.arange(4))                    # (4,80,80) uint8
    pack.proposals(0)                           # (P,80,80) uint8

A source is a tree of class folders (``U+554A``, the character itself, or any other name, which then
is the label) of image files, one ``.gnt`` file, or a folder of them. Its pack is a folder beside
it, ``<name>.pack<S>``:

    file           content
    glyphs.bin     M * S * S bytes: glyphs (S,S) uint8, 0 = paper; M >= N
    counts.npy     (N,) uint8: proposals of each sample, which follow each other in glyphs.bin
    labels.npy     (N,) int32 into `classes`
    writers.npy    (N,) int32 into `writers`; -1 where the file name does not tell
    names.jsonl    N lines, a JSON string each: image file, or .gnt file and offset of the record
    pack.json      fingerprint of the source, number of samples, classes, writers, problems

pack.json is written last: a folder without it is not a pack. A source that has changed is packed
again. PyTorch is not needed, and worker processes do not load it; `dataset.py` makes a
`torch.utils.data.Dataset` of packs.
"""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hwdb.characters import character_of
from hwdb.record import Damage, Record, read_gnt
from hwdb.sets import writer_of
from jobs.command import printable, progress, shorten
from jobs.files import only_one, read_mark, write_mark
from jobs.pool import Workers, cores
from picture import PICTURE_SUFFIXES, proposals, read_picture

PACK_VERSION = 9  # raised with every change of the preprocessing
CHUNK = 256  # pictures a task
CACHE = Path("data") / "packs"  # where packs of read-only places go
NO_DATA = {"Thumbs.db", "desktop.ini", "synthesis.json"}  # files beside data that nobody misses
MAKE_DATA = "(python process_gnt.py makes data/train and data/test)"


# --- scan: which files a source has


class Entry(NamedTuple):
    """One file of a source: path below the root, class folder ('' for a .gnt file), size, mtime."""

    path: str
    folder: str
    size: int
    mtime_ns: int


def scan(source: str | Path) -> tuple[list[Entry], list[str]]:
    """List the files of a source in a fixed order, and the paths of what is no part of it.

    That is: files that are neither pictures in class folders nor .gnt files by their names, links
    that lead nowhere, links to folders within a class folder, pipes and devices. Raises
    FileNotFoundError or ValueError where there is nothing else.
    """
    source = Path(source)
    if source.is_file() and source.suffix.lower() == ".gnt":
        return [_entry(source, source.name, "")], []
    if not source.is_dir():
        expected = f"expected class folders of pictures or .gnt files {MAKE_DATA}"
        raise FileNotFoundError(f"{source}: no such folder; {expected}")
    entries: list[Entry] = []
    others: list[str] = []
    for item in sorted(os.scandir(source), key=lambda item: item.name):
        if item.is_dir():
            entries += sorted(_pictures(item.path, item.name, item.name, others))
        elif item.name.lower().endswith(".gnt") and item.is_file():
            entries.append(_entry(item, item.name, ""))
        else:
            others.append(item.name)
    if not entries:
        what = "neither class folders with pictures nor .gnt files"
        raise ValueError(f"{source}: holds {what} {MAKE_DATA}")
    missed = {path: path.rpartition("/")[2] for path in sorted(others)}
    return entries, [p for p, name in missed.items() if name not in NO_DATA and name[0] != "."]


def _entry(item: Path | os.DirEntry, path: str, folder: str) -> Entry:
    info = item.stat()
    return Entry(path, folder, info.st_size, info.st_mtime_ns)


def _pictures(path: str, folder: str, below: str, others: list[str]) -> Iterator[Entry]:
    """Yield the pictures of a class folder and of the folders in it; add the rest to `others`."""
    for item in os.scandir(path):
        name = f"{below}/{item.name}"
        if item.is_dir(follow_symlinks=False):  # a link may lead back up, without an end
            yield from _pictures(item.path, folder, name, others)
        elif os.path.splitext(item.name)[1].lower() in PICTURE_SUFFIXES and item.is_file():
            yield _entry(item, name, folder)
        else:
            others.append(name)


def fingerprint(entries: Sequence[Entry]) -> str:
    """Digest names, sizes and times of a source's files."""
    digest = hashlib.sha256()
    for entry in entries:
        line = f"{entry.path}|{entry.size}|{entry.mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def class_order(label: str) -> tuple:
    """Sort key of labels: single characters in GB order, then other names by code point."""
    if len(label) == 1:
        return 0, label.encode("gb18030", "replace"), label
    return 1, label.encode("utf-8", "surrogatepass"), label


# --- decode: files -> glyphs, by several processes


class Chunk(NamedTuple):
    """Part of a source, decoded: n samples in order, and a sentence for each picture left out."""

    glyphs: list[np.ndarray]  # n arrays (P,S,S) uint8
    labels: list[str]
    writers: list[str]  # '' where unknown
    names: list[str]
    problems: list[str]
    refused: list[str]  # their labels, '' where damage hides it


def stream_glyphs(
    source: str | Path,
    entries: Sequence[Entry],
    size: int,
    margin: int | None = None,
    workers: int = 0,
) -> Iterator[Chunk]:
    """Decode a source in parallel (0: one process a core) and yield it in order."""
    tasks: list[list[Entry]] = []
    for entry in entries:
        if entry.folder and tasks and tasks[-1][0].folder and len(tasks[-1]) < CHUNK:
            tasks[-1].append(entry)
        else:
            tasks.append([entry])
    decode = partial(_decode, str(source), size, margin)
    with Workers(max(1, min(workers or cores(), len(tasks)))) as pool:
        for chunks in pool.map(decode, tasks):
            yield from chunks


def _decode(root: str, size: int, margin: int | None, task: list[Entry]) -> list[Chunk]:
    """Decode one task, some pictures or one .gnt file, into chunks of at most CHUNK glyphs.

    Pictures that cannot be read or hold nothing are left out and named.
    """
    cv2.setNumThreads(1)  # processes are the parallelism here
    chunks: list[Chunk] = []
    for number, (name, where, label, writer, picture) in enumerate(_samples(root, task)):
        if number % CHUNK == 0:
            chunks.append(Chunk([], [], [], [], [], []))
        chunk = chunks[-1]
        try:
            chunk.glyphs.append(proposals(_pixels(picture), size, margin))
        except (ValueError, OSError) as error:
            chunk.problems.append(f"{where}: {str(error).removeprefix(f'{where}: ')}")
            chunk.refused.append(label)
            continue
        chunk.labels.append(label)
        chunk.writers.append(writer)
        chunk.names.append(name)
    return chunks


def _samples(root: str, task: list[Entry]) -> Iterator[tuple]:
    """Yield name for names.jsonl, place for people, label ('' for damage), writer, and picture."""
    single = os.path.isfile(root)
    for entry in task:
        path = Path(root) if single else Path(root, entry.path)
        if entry.folder:
            yield entry.path, str(path), character_of(entry.folder), writer_of(path.name), path
            continue
        writer = writer_of(path.name)
        with open(path, "rb") as stream:
            for item in read_gnt(stream, path.name):
                name, where = f"{path.name}#{item.offset}", f"{path}: byte {item.offset}"
                label = "" if isinstance(item, Damage) else item.character
                yield name, where, label, writer, item


def _pixels(picture: Path | Record | Damage) -> np.ndarray:
    """Return the pixels of a picture file or a record; ValueError for damage."""
    if isinstance(picture, Damage):
        raise ValueError(picture.reason)
    return picture.bitmap if isinstance(picture, Record) else read_picture(picture)


# --- pack: glyphs -> one folder, made once


@dataclass(frozen=True)
class Pack:
    """A packed source, memory-mapped."""

    source: Path
    folder: Path
    size: int
    fingerprint: str
    classes: list[str]
    writers: list[str]
    glyphs: np.ndarray  # (M,S,S) uint8
    offsets: np.ndarray  # (N + 1,) int64: sample i has the glyphs offsets[i]...offsets[i + 1]
    labels: np.ndarray  # (N,) int32 into `classes`
    writer_ids: np.ndarray  # (N,) int32 into `writers`, -1: unknown
    problems: list[str]  # a sentence for each picture that could not be read
    refused: dict[str, int]  # their number by label, '' where damage hides it

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
        """Where each glyph came from, below `source`."""
        text = (self.folder / "names.jsonl").read_text(encoding="ascii")
        return json.loads(f"[{','.join(text.splitlines())}]")

    def describe(self) -> str:
        """Say in a sentence what is in the pack."""
        writers = f"{len(self.writers)} writers" if self.writers else "no writers known"
        text = f"{self.source}: {len(self):,} glyphs, {len(self.classes)} classes, {writers}"
        return text + (f", {len(self.problems)} unreadable" if self.problems else "")


def pack_folder(source: str | Path, size: int) -> Path:
    """Return where the pack of a source belongs: beside it; in data/packs if that is read-only."""
    source = Path(source).resolve()
    if os.access(source.parent, os.W_OK):
        return source.parent / f"{source.name}.pack{size}"
    digest = hashlib.sha256(str(source).encode(errors="surrogateescape")).hexdigest()[:8]
    return CACHE / f"{source.name}-{digest}.pack{size}"


def open_pack(source: str | Path, size: int = 64, workers: int = 0) -> Pack:
    """Open the pack of a source; make it first if there is none or the source has changed.

    Raises as `scan`, and ValueError if nothing is readable or another process is packing it.
    """
    source = Path(source)
    entries, others = scan(source)
    digest = fingerprint(entries)
    folder = pack_folder(source, size)
    pack = _read_pack(source, folder, size)
    if pack is None or pack.fingerprint != digest:
        if pack is not None:
            print(f"{source} has changed: packing it anew", file=sys.stderr)
        if others:
            why = "they are neither pictures in class folders nor .gnt files by their names"
            said = f"{source}: {len(others)} files are left out, {why}: {shorten(others)}"
            print(said, file=sys.stderr)
        make_pack(source, folder, entries, size, workers)
        pack = _read_pack(source, folder, size)
        assert pack is not None
    for problem in pack.problems[:10]:
        print(f"unreadable: {printable(problem)}", file=sys.stderr)
    if (more := len(pack.problems) - 10) > 0:
        print(f"unreadable: {more} more, see {folder / 'pack.json'}", file=sys.stderr)
    return pack


def _read_pack(source: Path, folder: Path, size: int) -> Pack | None:
    """Open a pack; None if there is none, or its files are not what pack.json says."""
    meta = read_mark(folder / "pack.json", PACK_VERSION)
    try:
        texts = [meta[key] for key in ("classes", "writers", "problems")]
        labels, writers, counts = (
            np.load(folder / f"{name}.npy") for name in ("labels", "writers", "counts")
        )
        offsets = np.concatenate([[0], counts.cumsum(dtype=np.int64)])
        shape = (int(offsets[-1]), size, size)
        glyphs = np.memmap(folder / "glyphs.bin", np.uint8, "r").reshape(shape)
        whole = (
            all(isinstance(text, str) for text in [meta["fingerprint"], *sum(texts, [])])
            and all(isinstance(count, int) for count in meta["refused"].values())
            and labels.shape == writers.shape == counts.shape == (meta["count"],)
            and labels.dtype == writers.dtype == np.int32
            and counts.dtype == np.uint8
            and counts.min() > 0
            and 0 <= labels.min() <= labels.max() < len(meta["classes"])
            and -1 <= writers.min() <= writers.max() < len(meta["writers"])
        )
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception:  # files that something else has changed raise almost anything
        return None
    classes, people, problems = texts
    pack = Pack(source, folder, size, meta["fingerprint"], classes, people, glyphs, offsets, labels,
                writers, problems, meta["refused"])  # fmt: skip
    return pack if whole else None


def check_distinct(packs: Sequence[Pack]) -> None:
    """Raise ValueError if two sources are the same, hold the same, or one is part of the other."""
    for i, one in enumerate(packs):
        for other in packs[:i]:
            a, b = one.source.resolve(), other.source.resolve()
            if a == b:
                raise ValueError(f"{one.source} is given twice; name each source once")
            if a in b.parents or b in a.parents:
                raise ValueError(f"{one.source} and {other.source}: one is part of the other")
            if one.fingerprint == other.fingerprint:
                raise ValueError(f"{one.source} and {other.source} hold the same samples")


def make_pack(source: Path, folder: Path, entries: list[Entry], size: int, workers: int) -> None:
    """Decode a source into `folder`; see the module's table. One process at a time.

    What was there goes first: the pack of an earlier state of the source with its soft labels, or
    what a packer that was killed has left. An error leaves nothing.
    """
    with only_one(folder, "packing"):
        for old in folder.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
            elif not old.name.startswith(".lock"):
                old.unlink()
        try:
            content = _write_glyphs(source, folder, entries, size, workers)
            write_mark(folder / "pack.json", {"version": PACK_VERSION} | content)
        except BaseException as error:
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(folder)  # a full disk, say
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _write_glyphs(
    source: Path, folder: Path, entries: list[Entry], size: int, workers: int
) -> dict:
    """Write all files of a pack but pack.json, and return what that says."""
    labels, writers, counts, problems, refused = [], [], [], [], Counter()
    pictures = sum(1 for entry in entries if entry.folder)
    total = pictures if pictures == len(entries) else None  # what .gnt files hold is not known
    with (
        open(folder / "glyphs.bin", "wb") as glyphs,
        open(folder / "names.jsonl", "w", encoding="ascii") as names,
        progress(total=total, desc=f"packing {source}", unit=" glyphs") as bar,
    ):
        for chunk in stream_glyphs(source, entries, size, workers=workers):
            for some in chunk.glyphs:
                glyphs.write(some.tobytes())
                counts.append(len(some))
            names.writelines(json.dumps(name) + "\n" for name in chunk.names)
            labels += chunk.labels
            writers += chunk.writers
            problems += chunk.problems
            refused.update(chunk.refused)
            bar.update(len(chunk.labels) + len(chunk.problems))
        if not labels:
            first = f"; first: {problems[0]}" if problems else ""
            raise ValueError(f"{source}: none of its {len(problems)} pictures could be read{first}")
    np.save(folder / "counts.npy", np.array(counts, np.uint8))
    classes = sorted(set(labels), key=class_order)
    people = sorted(set(writers) - {""})
    for name, column, known in (("labels", labels, classes), ("writers", writers, people)):
        number = {value: i for i, value in enumerate(known)}
        np.save(folder / f"{name}.npy", np.array([number.get(v, -1) for v in column], np.int32))
    return {
        "fingerprint": fingerprint(entries),
        "count": len(labels),
        "classes": classes,
        "writers": people,
        "problems": problems,
        "refused": refused,
    }
