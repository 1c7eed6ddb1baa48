"""Label-per-folder pictures (or .gnt files) -> one packed uint8 array -> whole batches.

    from dataset import open_pack, GlyphSet
    pack = open_pack("data/train", size=80)          # decoded once, in parallel, then mapped
    glyphs = GlyphSet([pack], classes=pack.classes)
    batch, labels = glyphs.fetch(indices)             # (B,S,S) uint8, (B,) int64

A source is a tree of class folders (``U+554A``, the character itself, or any other name, which then
is the label) with PNG, JPEG, BMP, TIFF or WebP files, one ``.gnt`` file, or a folder of them. Its
pack is a folder beside it, ``<name>.pack<S>``:

    file           content
    glyphs.bin     N * S * S bytes: glyphs (S,S) uint8, 0 = paper, in the order of the source
    labels.npy     (N,) int32 into `classes`
    writers.npy    (N,) int32 into `writers`; -1 where the file name tells none
    names.jsonl    N lines, a JSON string each: picture file, or .gnt file and offset of the record
    pack.json      fingerprint of the source, count, classes, writers, what could not be read

A source that changed has another fingerprint and is packed anew; pack.json is written last, so a
pack without it is no pack. The file reads as the data flow: scan, decode, pack, fetch, split.
Left out: anything about models; augmentation is in training/augment.py.
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
import torch
from torch import Tensor

from hwdb.characters import character_of
from hwdb.record import Damage, Record, read_gnt
from hwdb.sets import writer_of
from jobs.command import printable, progress, shorten
from jobs.files import only_one, read_mark, write_mark
from jobs.pool import Workers, cores
from picture import PICTURE_SUFFIXES, read_picture, to_glyph

PACK_VERSION = 8  # raised with every change of the preprocessing
CHUNK = 256  # pictures a task
UNLABELLED, NO_CHARACTER = -1, -2  # instead of a label
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
    """Part of a source, decoded: n glyphs in order, and a sentence for each picture left out."""

    glyphs: np.ndarray  # (n,S,S) uint8
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
    with Workers(max(1, min(workers or cores(), len(tasks))), __name__) as pool:
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
            chunks.append(Chunk(np.empty((CHUNK, size, size), np.uint8), [], [], [], [], []))
        chunk = chunks[-1]
        try:
            chunk.glyphs[len(chunk.labels)] = to_glyph(_pixels(picture), size, margin)
        except (ValueError, OSError) as error:
            chunk.problems.append(f"{where}: {str(error).removeprefix(f'{where}: ')}")
            chunk.refused.append(label)
            continue
        chunk.labels.append(label)
        chunk.writers.append(writer)
        chunk.names.append(name)
    return [chunk._replace(glyphs=chunk.glyphs[: len(chunk.labels)]) for chunk in chunks]


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
    glyphs: np.ndarray  # (N,S,S) uint8
    labels: np.ndarray  # (N,) int32 into `classes`
    writer_ids: np.ndarray  # (N,) int32 into `writers`, -1: unknown
    problems: list[str]  # a sentence for each picture that could not be read
    refused: dict[str, int]  # their number by label, '' where damage hides it

    def __len__(self) -> int:
        return len(self.labels)

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
    pack = _whole_pack(source, folder, size)
    if pack is None or pack.fingerprint != digest:
        if pack is not None:
            print(f"{source} has changed: packing it anew", file=sys.stderr)
        if others:
            why = "they are neither pictures in class folders nor .gnt files by their names"
            said = f"{source}: {len(others)} files are left out, {why}: {shorten(others)}"
            print(said, file=sys.stderr)
        make_pack(source, folder, entries, size, workers)
        pack = _whole_pack(source, folder, size)
        assert pack is not None
    for problem in pack.problems[:10]:
        print(f"unreadable: {printable(problem)}", file=sys.stderr)
    if (more := len(pack.problems) - 10) > 0:
        print(f"unreadable: {more} more, see {folder / 'pack.json'}", file=sys.stderr)
    return pack


def _whole_pack(source: Path, folder: Path, size: int) -> Pack | None:
    """Open a pack; None if there is none, or its files are not what pack.json says."""
    meta = read_mark(folder / "pack.json", PACK_VERSION)
    try:
        texts = [meta[key] for key in ("classes", "writers", "problems")]
        labels, writers = (np.load(folder / name) for name in ("labels.npy", "writers.npy"))
        shape = (meta["count"], size, size)
        glyphs = np.memmap(folder / "glyphs.bin", np.uint8, "r").reshape(shape)
        whole = (
            all(isinstance(text, str) for text in [meta["fingerprint"], *sum(texts, [])])
            and all(isinstance(count, int) for count in meta["refused"].values())
            and labels.shape == writers.shape == shape[:1]
            and labels.dtype == writers.dtype == np.int32
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
    pack = Pack(source, folder, size, meta["fingerprint"], classes, people, glyphs, labels, writers,
                problems, meta["refused"])  # fmt: skip
    return pack if whole else None


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
    labels, writers, problems, refused = [], [], [], Counter()
    pictures = sum(1 for entry in entries if entry.folder)
    total = pictures if pictures == len(entries) else None  # what .gnt files hold is not known
    with (
        open(folder / "glyphs.bin", "wb") as glyphs,
        open(folder / "names.jsonl", "w", encoding="ascii") as names,
        progress(total=total, desc=f"packing {source}", unit=" glyphs") as bar,
    ):
        for chunk in stream_glyphs(source, entries, size, workers=workers):
            glyphs.write(chunk.glyphs.tobytes())
            names.writelines(json.dumps(name) + "\n" for name in chunk.names)
            labels += chunk.labels
            writers += chunk.writers
            problems += chunk.problems
            refused.update(chunk.refused)
            bar.update(len(chunk.labels) + len(chunk.problems))
        if not labels:
            first = f"; first: {problems[0]}" if problems else ""
            raise ValueError(f"{source}: none of its {len(problems)} pictures could be read{first}")
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


# --- fetch: packs -> batches


class GlyphSet:
    """Packs behind one index, with labels in one class order.

    labels (N,) int64 are UNLABELLED for glyphs that are left out or of unlabelled packs, writers
    (N,) int64 one number a name over all packs, -1 where unknown, sources (N,) int64 of the pack.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        classes: Sequence[str],  # label order
        skip_unknown: bool = False,  # leave glyphs of other classes out instead of raising
        unlabelled: int = 0,  # so many of the last packs have labels and writers that do not count
    ) -> None:
        self.packs = list(packs)
        self.classes = list(classes)
        self.writer_names = sorted({name for pack in packs for name in pack.writers})
        index = {label: i for i, label in enumerate(classes)}
        person = {name: i for i, name in enumerate(self.writer_names)}
        labels, writers = [], []
        for pack in packs[: len(packs) - unlabelled]:
            unknown = [label for label in pack.classes if label not in index]
            if unknown and not skip_unknown:
                said = f"{pack.source} has {len(unknown)} classes that the model's {len(index)} do"
                raise ValueError(f"{said} not include: {shorten(unknown, 20)}")
            table = np.array([index.get(label, UNLABELLED) for label in pack.classes], np.int64)
            labels.append(table[pack.labels])
            people = np.array([person[name] for name in pack.writers] + [-1], np.int64)
            writers.append(people[pack.writer_ids])  # -1 is the last
        lengths = [len(pack) for pack in packs]
        rest = sum(lengths) - sum(map(len, labels))
        self.labels = np.concatenate([*labels, np.full(rest, UNLABELLED)])
        self.writers = np.concatenate([*writers, np.full(rest, -1)])
        self.sources = np.repeat(np.arange(len(packs)), lengths)
        self.starts = np.cumsum([0, *lengths])
        self._resident: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Say which file a glyph came from."""
        number = int(self.sources[index])
        pack = self.packs[number]
        name = pack.names[index - int(self.starts[number])]
        if pack.source.is_file():
            return f"{pack.source}#{name.rpartition('#')[2]}"
        return str(pack.source / name)

    def to(self, device: torch.device, free: int) -> None:
        """Move all glyphs to a device if they fit into half of its `free` bytes."""
        side = self.packs[0].size
        if 2 * len(self) * side**2 < free:
            resident = torch.empty((len(self), side, side), dtype=torch.uint8, device=device)
            for part in np.array_split(np.arange(len(self)), len(self) // 10_000 + 1):
                resident[part[0] : part[-1] + 1] = self.fetch(part)[0]
            self._resident = resident

    def fetch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return glyphs (B,S,S) uint8, where they live, and labels (B,) int64 on the CPU."""
        labels = torch.from_numpy(self.labels[indices])
        if self._resident is not None:
            at = torch.from_numpy(indices).to(self._resident.device, non_blocking=True)
            return self._resident[at], labels
        if len(self.packs) == 1:
            return torch.from_numpy(self.packs[0].glyphs[indices]), labels
        size = self.packs[0].size
        glyphs = np.empty((len(indices), size, size), np.uint8)
        sources = self.sources[indices]
        for number in np.unique(sources):
            here = sources == number
            glyphs[here] = self.packs[number].glyphs[indices[here] - self.starts[number]]
        return torch.from_numpy(glyphs), labels

    def batches(self, chosen: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of index arrays; see `fetch`."""
        yield from map(self.fetch, chosen)


# --- split: which glyphs train, and in which order


def hold_out(glyphs: GlyphSet, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Split indices into training and validation by writer.

    Writers that make up `fraction` of all writers are drawn with `seed`; a writer of the same name
    in several packs is one. Glyphs of unknown writers, or of a single one, are split by sample.
    Glyphs of unknown classes are in neither part. Returns training indices, validation indices
    (both ascending), and a sentence that says how.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    known = np.unique(glyphs.writers[glyphs.writers >= 0])
    people = max(1, round(fraction * len(known))) if fraction and len(known) > 1 else 0
    validation = np.isin(glyphs.writers, rng.permutation(known)[:people])
    alone = np.flatnonzero(glyphs.writers < 0) if people else np.arange(len(glyphs))
    validation[rng.permutation(alone)[: round(fraction * len(alone))]] = True
    usable = glyphs.labels >= 0
    validation &= usable
    said = f"{validation.sum():,} validation glyphs: {people} held-out writers"
    if len(alone):
        of = "of one writer" if len(known) == 1 else "whose writers are unknown"
        said += f", and {fraction:.0%} by sample of {len(alone):,} glyphs {of}"
    return np.flatnonzero(usable & ~validation), np.flatnonzero(validation), said


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch, a permutation of `count`: a pure function of seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
