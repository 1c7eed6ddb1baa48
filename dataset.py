"""Label-per-folder pictures (or .gnt files) -> one packed uint8 array -> whole batches.

    from dataset import open_pack, GlyphSet
    pack = open_pack("data/train", size=64)          # decoded once, in parallel, then mapped
    glyphs = GlyphSet([pack], classes=pack.classes)
    batch, labels = glyphs.fetch(indices)             # (B,S,S) uint8, (B,) int64

A source is a tree of class folders (``U+554A``, the character itself, or any other name, which then
is the label) with PNG, JPEG, BMP, TIFF or WebP files, one ``.gnt`` file, or a folder of them. Its
pack is a folder beside it, ``<name>.pack<S>``:

    file           content
    glyphs.bin     N * S * S bytes: glyphs (S,S) uint8, 0 = paper, in the order of the source
    labels.npy     (N,) int32 into `classes`
    writers.npy    (N,) int32 into `writers`; -1 where the file name tells none
    names.txt      N lines: picture file, or .gnt file and offset of the record
    pack.json      fingerprint of the source, size, classes, writers, what could not be read

A source that changed has another fingerprint and is packed anew; pack.json is written last, so a
pack without it is no pack. Left out: anything about models; augmentation is in training/augment.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hwdb.characters import character_of
from hwdb.numbering import writer_and_split
from hwdb.record import Damage, read_gnt
from jobs.pool import Workers, cores
from picture import PICTURE_SUFFIXES, read_picture, to_glyph

PACK_VERSION = 4
CHUNK = 256  # pictures a task
CACHE = Path("data") / "packs"  # where packs of read-only places go
NO_DATA = {"Thumbs.db", "desktop.ini", "synthesis.json"}  # files beside data that nobody misses


class Entry(NamedTuple):
    """One file of a source: path below the root, class folder ('' for a .gnt file), size, mtime."""

    path: str
    folder: str
    size: int
    mtime_ns: int


class Chunk(NamedTuple):
    """Part of a source, decoded: n glyphs in order, and a sentence for each picture left out."""

    glyphs: np.ndarray  # (n,S,S) uint8
    labels: list[str]
    writers: list[str]  # '' where unknown
    names: list[str]
    problems: list[str]
    refused: list[str]  # their labels, '' where damage hides it


def class_order(label: str) -> tuple:
    """Sort key of labels: single characters in GB order, then other names by code point."""
    if len(label) == 1:
        return 0, label.encode("gb18030", "surrogatepass"), label
    return 1, label.encode("utf-8", "surrogatepass"), label


def scan(source: str | Path) -> list[Entry]:
    """List the files of a source in a fixed order.

    Raises:
        FileNotFoundError: no such path.
        ValueError: neither pictures in class folders nor .gnt files.
    """
    source = Path(source)
    if source.is_file() and source.suffix.lower() == ".gnt":
        info = source.stat()
        return [Entry(source.name, "", info.st_size, info.st_mtime_ns)]
    if not source.is_dir():
        raise FileNotFoundError(
            f"{source}: no such folder; expected class folders of pictures or .gnt files "
            "(python process_gnt.py makes data/train and data/test)"
        )
    entries: list[Entry] = []
    for folder in sorted(os.scandir(source), key=lambda item: item.name):
        if folder.is_dir():
            entries += sorted(_pictures(folder.path, folder.name))
        elif folder.name.lower().endswith(".gnt"):
            info = folder.stat()
            entries.append(Entry(folder.name, "", info.st_size, info.st_mtime_ns))
    if not entries:
        raise ValueError(
            f"{source}: holds neither class folders with pictures nor .gnt files "
            "(python process_gnt.py makes data/train and data/test)"
        )
    return entries


def _pictures(path: str, folder: str, below: str = "") -> Iterator[Entry]:
    """Yield the pictures of a class folder and of the folders in it."""
    for item in os.scandir(path):
        name = below + item.name
        if item.is_dir():
            yield from _pictures(item.path, folder, f"{name}/")
        elif os.path.splitext(item.name)[1].lower() in PICTURE_SUFFIXES:
            info = item.stat()
            yield Entry(f"{folder}/{name}", folder, info.st_size, info.st_mtime_ns)


def left_out(source: str | Path, entries: Sequence[Entry]) -> list[str]:
    """List the files of a source that `scan` took neither for pictures nor for .gnt files."""
    taken = {entry.path for entry in entries}
    files = (
        Path(folder, name).relative_to(source).as_posix()
        for folder, _, names in os.walk(source)
        for name in names
        if name not in NO_DATA and not name.startswith(".")
    )
    return sorted(file for file in files if file not in taken)


def fingerprint(entries: Sequence[Entry]) -> str:
    """Digest names, sizes and times of a source's files."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.path}|{entry.size}|{entry.mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def writer_of(file_name: str) -> str:
    """Return the writer in a file name of process_gnt.py (``1001_00017.png``), '' if there is none.

    Other trees that begin a name with the writer's number (``1001_3.png``) are understood as well.
    """
    match = re.match(r"([A-Za-z]?\d+(?:-\d+)?)_|(.+)_\d{5}\.\w+$", file_name)
    return (match[1] or match[2]) if match else ""


def _decode(root: str, size: int, margin: int | None, task: list[Entry]) -> list[Chunk]:
    """Decode one task: some pictures, or one .gnt file (in chunks)."""
    cv2.setNumThreads(1)  # processes are the parallelism here
    if task[0].folder:
        return [_decode_pictures(root, size, margin, task)]
    path = Path(root, task[0].path) if os.path.isdir(root) else Path(root)
    return list(_decode_gnt(path, size, margin))


def _decode_pictures(root: str, size: int, margin: int | None, task: list[Entry]) -> Chunk:
    chunk = Chunk(np.empty((len(task), size, size), np.uint8), [], [], [], [], [])
    for entry in task:
        try:
            picture = read_picture(Path(root, entry.path))
            chunk.glyphs[len(chunk.labels)] = to_glyph(picture, size, margin)
        except (ValueError, OSError) as error:
            reason = str(error)
            chunk.problems.append(
                reason if reason.startswith(root) else f"{Path(root, entry.path)}: {reason}"
            )
            chunk.refused.append(character_of(entry.folder))
            continue
        chunk.labels.append(character_of(entry.folder))
        chunk.writers.append(writer_of(os.path.basename(entry.path)))
        chunk.names.append(entry.path)
    return chunk._replace(glyphs=chunk.glyphs[: len(chunk.labels)])


def _decode_gnt(path: Path, size: int, margin: int | None) -> Iterator[Chunk]:
    writer = writer_and_split(path.name)[0] or path.stem
    with open(path, "rb") as stream:
        items = read_gnt(stream, path.name)
        while batch := list(islice(items, CHUNK)):
            chunk = Chunk(np.empty((len(batch), size, size), np.uint8), [], [], [], [], [])
            for item in batch:
                if isinstance(item, Damage):
                    chunk.problems.append(f"{path}: byte {item.offset}: {item.reason}")
                    chunk.refused.append("")
                    continue
                try:
                    chunk.glyphs[len(chunk.labels)] = to_glyph(item.bitmap, size, margin)
                except ValueError as error:
                    chunk.problems.append(f"{path}: byte {item.offset}: {error}")
                    chunk.refused.append(item.character)
                    continue
                chunk.labels.append(item.character)
                chunk.writers.append(writer)
                chunk.names.append(f"{path.name}#{item.offset}")
            yield chunk._replace(glyphs=chunk.glyphs[: len(chunk.labels)])


def stream_glyphs(
    source: str | Path,
    entries: Sequence[Entry],
    size: int,
    margin: int | None = None,
    workers: int | None = None,
) -> Iterator[Chunk]:
    """Decode a source in parallel and yield it in order; the order depends on the files alone."""
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


@dataclass(frozen=True)
class Pack:
    """A packed source, memory-mapped.

    glyphs (N,S,S) uint8, labels (N,) int32 into `classes`, writer_ids (N,) int32 into `writers`
    (-1: unknown); `problems` has a sentence for each picture that could not be read, `refused` the
    number of them by label ('' where damage hides it).
    """

    source: Path
    folder: Path
    size: int
    fingerprint: str
    classes: list[str]
    writers: list[str]
    glyphs: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    writer_ids: np.ndarray = field(repr=False)
    problems: list[str] = field(repr=False)
    refused: dict[str, int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def names(self) -> list[str]:
        """Where each glyph came from, below `source`."""
        return (self.folder / "names.txt").read_text(encoding="utf-8").splitlines()

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
    digest = hashlib.sha256(str(source).encode()).hexdigest()[:8]
    return CACHE / f"{source.name}-{digest}.pack{size}"


def open_pack(source: str | Path, size: int = 64, workers: int | None = None) -> Pack:
    """Open the pack of a source; make it first if there is none or the source has changed.

    Raises:
        FileNotFoundError: no such source.
        ValueError: nothing readable in it.
    """
    entries = scan(source)
    digest = fingerprint(entries)
    folder = pack_folder(source, size)
    meta = _read_meta(folder)
    if meta is None or meta["fingerprint"] != digest or meta["version"] != PACK_VERSION:
        if meta is not None:
            print(f"{source} has changed: packing it anew", file=sys.stderr)
        if others := left_out(source, entries):
            print(
                f"{source}: {len(others)} files are left out, they are neither pictures in class "
                f"folders nor .gnt files by their names; the first is {others[0]}",
                file=sys.stderr,
            )
        meta = _make_pack(Path(source), folder, entries, digest, size, workers)
    count = meta["count"]
    pack = Pack(
        source=Path(source),
        folder=folder,
        size=size,
        fingerprint=digest,
        classes=meta["classes"],
        writers=meta["writers"],
        glyphs=np.memmap(folder / "glyphs.bin", np.uint8, "r", shape=(count, size, size)),
        labels=np.load(folder / "labels.npy"),
        writer_ids=np.load(folder / "writers.npy"),
        problems=meta["problems"],
        refused=meta["refused"],
    )
    for problem in pack.problems[:10]:
        print(f"unreadable: {problem}", file=sys.stderr)
    if len(pack.problems) > 10:
        print(f"unreadable: {len(pack.problems) - 10} more, see {folder / 'pack.json'}",
              file=sys.stderr)  # fmt: skip
    return pack


def _read_meta(folder: Path) -> dict | None:
    try:
        return json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _make_pack(
    source: Path,
    folder: Path,
    entries: list[Entry],
    digest: str,
    size: int,
    workers: int | None,
) -> dict:
    """Decode the source into `folder`; see the module's table. pack.json comes last."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        return _fill_pack(source, folder, temporary, entries, digest, size, workers)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # renamed by now, if all went well


def _fill_pack(
    source: Path,
    folder: Path,
    temporary: Path,
    entries: list[Entry],
    digest: str,
    size: int,
    workers: int | None,
) -> dict:
    labels: list[str] = []
    writers: list[str] = []
    problems: list[str] = []
    refused: Counter[str] = Counter()
    trees = sum(1 for entry in entries if entry.folder)
    with (
        open(temporary / "glyphs.bin", "wb") as glyphs,
        open(temporary / "names.txt", "w", encoding="utf-8", errors="replace") as names,
        tqdm(
            total=trees if trees == len(entries) else None,
            desc=f"packing {source}",
            unit=" glyphs",
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        for chunk in stream_glyphs(source, entries, size, workers=workers):
            glyphs.write(chunk.glyphs.tobytes())
            names.writelines(f"{name}\n" for name in chunk.names)
            labels += chunk.labels
            writers += chunk.writers
            problems += chunk.problems
            refused.update(chunk.refused)
            bar.update(len(chunk.labels) + len(chunk.problems))
    if not labels:
        raise ValueError(
            f"{source}: none of its {len(problems)} pictures could be read; first: {problems[0]}"
            if problems
            else f"{source}: holds no pictures"
        )
    classes = sorted(set(labels), key=class_order)
    people = sorted(set(writers) - {""})
    index = {label: i for i, label in enumerate(classes)}
    person = {writer: i for i, writer in enumerate(people)} | {"": -1}
    np.save(temporary / "labels.npy", np.array([index[label] for label in labels], np.int32))
    np.save(temporary / "writers.npy", np.array([person[writer] for writer in writers], np.int32))
    meta = {
        "version": PACK_VERSION,
        "fingerprint": digest,
        "size": size,
        "count": len(labels),
        "classes": classes,
        "writers": people,
        "problems": problems,
        "refused": refused,
    }
    text = json.dumps(meta, ensure_ascii=True)
    (temporary / "pack.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    return meta


class GlyphSet:
    """Packs behind one index, with labels in one class order.

    Args:
        packs: what to read, one after the other.
        classes: label order; every class of the packs must be in it.
        skip_unknown: leave glyphs of other classes out instead of raising.

    Attributes:
        labels: (N,) int64; -1 for glyphs of unknown classes (only with `skip_unknown`).
        writers: (N,) int64, one number a writer's name over all packs; -1 where unknown.
        sources: (N,) int64, number of the pack.

    Raises:
        ValueError: a class that is not in `classes`.
    """

    def __init__(
        self, packs: Sequence[Pack], classes: Sequence[str], skip_unknown: bool = False
    ) -> None:
        self.packs = list(packs)
        self.classes = list(classes)
        index = {label: i for i, label in enumerate(classes)}
        labels, writers = [], []
        self.writer_names = sorted({name for pack in packs for name in pack.writers})
        person = {name: i for i, name in enumerate(self.writer_names)}
        for pack in packs:
            unknown = [label for label in pack.classes if label not in index]
            if unknown and not skip_unknown:
                shown = " ".join(unknown[:20]) + (" ..." if len(unknown) > 20 else "")
                raise ValueError(
                    f"{pack.source} has {len(unknown)} classes that the model's "
                    f"{len(index)} do not include: {shown}"
                )
            table = np.array([index.get(label, -1) for label in pack.classes], np.int64)
            labels.append(table[pack.labels])
            people = np.array([person[name] for name in pack.writers] + [-1], np.int64)
            writers.append(people[pack.writer_ids])  # -1 is the last
        self.labels = np.concatenate(labels)
        self.writers = np.concatenate(writers)
        self.sources = np.repeat(np.arange(len(packs)), [len(pack) for pack in packs])
        self.starts = np.concatenate([[0], np.cumsum([len(pack) for pack in packs])])
        self._resident: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Say which file a glyph came from."""
        number = int(self.sources[index])
        pack = self.packs[number]
        name = pack.names[index - int(self.starts[number])]
        return str(pack.source) + name[name.find("#") :] if pack.source.is_file() else str(
            pack.source / name
        )  # fmt: skip

    def to(self, device: torch.device) -> GlyphSet:
        """Move all glyphs to a GPU if they fit into half of its free memory; else do nothing."""
        if device.type == "cuda":
            size = sum(pack.glyphs.nbytes for pack in self.packs)
            if size < torch.cuda.mem_get_info(device)[0] // 2:
                self._resident = torch.cat(
                    [torch.from_numpy(np.asarray(pack.glyphs)).to(device) for pack in self.packs]
                )
        return self

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

    def example(self, label: int) -> Tensor | None:
        """Return a glyph (1,S,S) uint8 of a class, None if there is none."""
        here = np.flatnonzero(self.labels == label)
        return self.fetch(here[:1])[0].cpu() if len(here) else None


def hold_out(glyphs: GlyphSet, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Split indices into training and validation by writer.

    Writers that make up `fraction` of all writers are drawn with `seed`; a writer of the same name
    in several packs is one. Glyphs of unknown writers, or of a single one, are split by sample.
    Glyphs of unknown classes are in neither part.

    Returns:
        training indices, validation indices (both ascending), a sentence that says how.
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
