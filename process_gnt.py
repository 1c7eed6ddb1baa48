"""Convert the CASIA-HWDB archives, as downloaded, to a tree of PNG files: one folder a character.

    python process_gnt.py HWDB1.1trn_gnt.zip HWDB1.1tst_gnt.zip   # official files: train and test
    python process_gnt.py my_files/ --split train                 # .gnt files of any other name
    python process_gnt.py --download                              # fetch HWDB1.1 first
    python process_gnt.py                                         # whatever lies in data/

    data/train/U+554A/1001_00017.png    1 channel, native size, 255 = paper, lossless
               |      |    number of the record in its file, from 0
               |      writer (the number in the file name)
               class, by code point (啊)

Run again after an interruption it goes on, and the result is byte for byte that of an unbroken
run: each split keeps a record of its sources (.process_gnt.json; .process_gnt.jsonl holds a line
for each change since), one that is not "complete" is written anew, and a finished one is left alone
as long as its content and its number of PNG files agree with the record. One tree has one choice of
--classes; another choice is refused rather than mixed in. Left out: any change of the pictures
(picture/ does that).
"""

import argparse
import contextlib
import json
import math
import os
import re
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from hwdb.archives import GntFile, find_files, open_files, other_archives
from hwdb.characters import LEVEL1, folder_name, select_classes
from hwdb.record import Damage, Record, read_gnt
from hwdb.sets import EDITIONS, PAGE, TOTALS, origin, published, writer_of
from jobs.command import check_range, command, printable, progress
from jobs.files import only_one, read_mark, write_mark
from jobs.pool import Workers, cores

STATE, CHANGES, VERSION = ".process_gnt.json", ".process_gnt.jsonl", 2
COUNTS = ("records", "images", "skipped", "undecodable", "extra", "png_bytes")
BATCH_BYTES = 1 << 20  # of bitmaps sent to a worker at a time

# -- pictures --------------------------------------------------------------------------------------

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)


def encode_png(pixels: bytes, width: int, height: int) -> bytes:
    """Return a bitmap as a PNG file, 8-bit greyscale.

    Handwriting is long runs of paper: run-length matching without row filters is the fastest
    setting of zlib, and about as small as the default filters at level 6 (benchmarks/convert.py).
    """
    rows = np.zeros((height, width + 1), np.uint8)  # column 0: no filter
    rows[:, 1:] = np.frombuffer(pixels, np.uint8).reshape(height, width)
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    parts = (header, b"IDAT" + packer.compress(rows) + packer.flush(), b"IEND")
    chunks = (struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class Batch(NamedTuple):
    """Pictures to write: number, character, width, height, pixels; none: the end of a source."""

    folder: str
    prefix: str
    pictures: list[tuple[int, str, int, int, bytes]]


def write_batch(batch: Batch) -> tuple[str, str, int, int]:
    """Write the pictures of a batch; return folder, prefix, how many, and how many bytes."""
    total = 0
    for number, character, width, height, pixels in batch.pictures:
        data = encode_png(pixels, width, height)
        _write(f"{batch.folder}/{folder_name(character)}/{batch.prefix}_{number:05d}.png", data)
        total += len(data)
    return batch.folder, batch.prefix, len(batch.pictures), total


def _write(path: str, data: bytes) -> None:
    """Write a file, in its place; the record of its source tells whether it is whole."""
    try:
        try:
            handle = os.open(path, FLAGS, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handle = os.open(path, FLAGS, 0o666)
        try:
            while len(data):  # once, but for the last bytes of a disk
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise OSError(error.errno, error.strerror, path) from None


# -- the tree and its record -----------------------------------------------------------------------


class Tree:
    """One split on disk: class folders, and the record of the sources they come from."""

    def __init__(self, folder: Path, classes: str | None) -> None:
        self.folder = folder
        self.chosen = "all" if classes is None else "".join(sorted(classes))
        mark = read_mark(folder / STATE, VERSION) or {}
        self.sources: dict[str, dict] = mark.get("sources", {}) | dict(self._changes())
        if not self.sources and any(entry.is_dir() for entry in os.scandir(folder)):
            said = (
                f"process_gnt.py did not make what is in {folder}, or {STATE} is damaged or older"
            )
            raise ValueError(f"{said}; give another --out or move it away")
        both = [mark.get("classes", self.chosen), self.chosen]
        if both[0] != both[1]:
            was, now = (chosen if chosen == "all" else f"{len(chosen)} classes" for chosen in both)
            said = f"{folder} was made with another --classes ({was}, now {now})"
            raise ValueError(f"{said}; delete it or give another --out")
        # Every picture's prefix, to be compared with the record.
        self.present = Counter(name.rpartition("_")[0] for _, name in self._files())
        self.keys = {key.casefold(): key for key in self.sources}  # there are case-blind disks
        self.save()

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield (folder, name) of every file in the class folders."""
        for entry in os.scandir(self.folder):
            if entry.is_dir():
                yield from ((entry.path, name) for name in os.listdir(entry.path))

    def save(self) -> None:
        """Write the record; a reader sees the old one or the new one."""
        sources = dict(sorted(self.sources.items()))
        state = {"version": VERSION, "classes": self.chosen, "sources": sources}
        write_mark(self.folder / STATE, state)
        (self.folder / CHANGES).unlink(missing_ok=True)

    def note(self, key: str) -> None:
        """Add an entry as it is now to the record, in a time that does not grow with that."""
        with open(self.folder / CHANGES, "a", encoding="ascii") as stream:
            stream.write(json.dumps([key, self.sources[key]]) + "\n")

    def _changes(self) -> Iterator[tuple[str, dict]]:
        """Yield what was added to the record; a kill may have cut the last line."""
        path = self.folder / CHANGES
        with contextlib.suppress(ValueError):
            for line in path.read_text("ascii").splitlines() if path.is_file() else ():
                yield tuple(json.loads(line))

    def claim(self, source: GntFile, prefix: str, claimed: set[str]) -> tuple[str, dict]:
        """Return the prefix of a source in this tree and its entry, to be filled if not complete.

        A prefix belongs to the file that took it first. Another file of the same number gets
        `prefix+2` and so on, unless its content is the same: then it is that file. Prefixes
        `claimed` are of files of this run.
        """
        number, key = 1, prefix
        while key.casefold() in self.keys:
            key = self.keys[key.casefold()]
            entry = self.sources[key]
            same = entry["size"] == source.size and entry["crc"] == _checksum(source)
            whole = entry["complete"] and self.present[key] == entry["images"]
            if same and (key in claimed or whole):
                return key, entry
            if key not in claimed and (same or _is_rest_of(entry, source)):
                break  # changed or unfinished
            number += 1
            key = f"{prefix}+{number}"
        if self.present[key]:
            pattern = re.compile(re.escape(key) + r"_\d+\.png")
            for folder, name in self._files():
                if pattern.fullmatch(name):
                    os.unlink(os.path.join(folder, name))
        entry = {"source": _absolute(source), "size": source.size, "crc": None, "complete": False}
        self.sources[key] = entry | dict.fromkeys(COUNTS, 0) | {"damage": []}
        self.keys[key.casefold()] = key
        self.note(key)
        return key, self.sources[key]


def _is_rest_of(entry: dict, source: GntFile) -> bool:
    """Tell whether an entry is of this file as it was, or of an interrupted run that read it."""
    moved = entry["size"] == source.size and Path(entry["source"]).name == Path(source.name).name
    return entry["source"] == _absolute(source) or (entry["crc"] is None and moved)


def _absolute(source: GntFile) -> str:
    return os.path.abspath(source.path) + source.name[len(str(source.path)) :]


def _checksum(source: GntFile) -> int:
    if source.crc is None:
        source.crc = 0
        with source.path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                source.crc = zlib.crc32(chunk, source.crc)
    return source.crc


# -- conversion ------------------------------------------------------------------------------------


class _Checksummed:
    """A stream with the checksum of what was read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.crc = stream, 0

    def read(self, count: int) -> bytes:
        data = self.stream.read(count)
        self.crc = zlib.crc32(data, self.crc)
        return data


class Conversion:
    """One run: the sources in turn, their batches to the workers, everything counted."""

    def __init__(self, options: argparse.Namespace, classes: str | None) -> None:
        self.out, self.split, self.workers = Path(options.out), options.split, options.workers
        self.limit = options.limit
        self.classes = None if classes is None else frozenset(classes)
        self.trees: dict[str, Tree] = {}  # by split
        self.locks = contextlib.ExitStack()  # one a tree
        self.entries: dict[tuple[str, str], dict] = {}  # (split, prefix) of every source of the run
        self.notes: list[str] = []
        self.overruled = 0
        self.damaged: list[Damage] = []  # archives and files; that of records is in the entries
        self.images = 0  # pictures, with those of finished sources

    def run(self, files: list[Path]) -> None:
        """Convert all files; raises ValueError and OSError for what the user has to settle."""
        sizes = {file: file.stat().st_size for file in files if file.is_file()}
        bar = progress(total=sum(sizes.values()), unit="B", unit_scale=True)
        with self.locks, bar, Workers(self.workers, "process_gnt") as workers:
            written = workers.map(write_batch, self._batches(files, sizes, bar))
            for folder, prefix, count, size in written:
                tree = self.trees[os.path.basename(folder)]
                entry = tree.sources[prefix]
                entry["png_bytes"] += size
                if not count:
                    # A source whose archive is damaged is read again: a better one may come.
                    entry["complete"] = "archive" not in {kind for _, kind, _ in entry["damage"]}
                    tree.note(prefix)
            bar.update(bar.total - bar.n)

    def _batches(self, files: list[Path], sizes: dict[Path, int], bar) -> Iterator[Batch]:
        """Yield the batches of all sources."""
        behind, current = 0, None  # bytes of the files before the current one
        for source in open_files(files):
            if isinstance(source, Damage):
                if source.kind == "other":
                    self.notes.append(f"{source.source}: {source.reason}")
                else:
                    self.damaged.append(source)
                continue
            if source.path != current:
                behind, current = behind + sizes.get(current, 0), source.path
            for batch in self._convert(source):
                bar.update(behind + source.position() - bar.n)
                yield batch
            if self.images >= self.limit:
                break

    def _place(self, source: GntFile) -> tuple[str, str]:
        """Return (split, prefix) for a source: official numbers decide, else the option."""
        split = origin(_absolute(source))[2]
        if split is None:
            split = self.split
        elif self.split not in (None, split):
            self.overruled += 1
        if split is None:
            said = f"{source.name} is not an official train or test file"
            raise ValueError(f"{said}; say --split train or --split test")
        return split, writer_of(f"{Path(source.name).stem}.gnt")

    def _tree(self, split: str) -> Tree:
        if split not in self.trees:
            self.locks.enter_context(only_one(self.out / split, "process_gnt.py"))
            self.trees[split] = Tree(self.out / split, self.classes)
            self.locks.callback(self.trees[split].save)
        return self.trees[split]

    def _convert(self, source: GntFile) -> Iterator[Batch]:
        """Yield the batches of a source, the last one empty."""
        split, prefix = self._place(source)
        tree = self._tree(split)
        claimed = {prefix for part, prefix in self.entries if part == split}
        prefix, entry = tree.claim(source, prefix, claimed)
        if prefix in claimed:
            self.notes.append(f"{source.name} has the same content as another source; left out")
            return
        self.entries[split, prefix] = entry
        if entry["complete"]:
            self.images += entry["images"]
            return
        batch, size = Batch(str(tree.folder), prefix, []), 0
        stream = source.open()
        if source.crc is None:
            stream = _Checksummed(stream)
        for number, record in self._records(stream, source.name, entry):
            batch.pictures.append((number, *record[:4]))
            size += len(record.pixels)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = batch._replace(pictures=[]), 0
        if batch.pictures:
            yield batch
        if self.images < self.limit:  # else it is unfinished
            entry["crc"] = stream.crc if source.crc is None else source.crc
            yield batch._replace(pictures=[])

    def _records(self, stream: BinaryIO, name: str, entry: dict) -> Iterator[tuple[int, Record]]:
        """Yield the selected records of a source with their numbers, and count them all."""
        for item in read_gnt(stream, name):
            if self.images >= self.limit:
                return
            number = entry["records"]
            if isinstance(item, Damage):
                entry["damage"].append([item.offset, item.kind, item.reason])
                entry["records"] += item.kind not in ("archive", "empty")
                entry["undecodable"] += item.kind == "tag"
                continue
            entry["records"] += 1
            if self.classes is not None and item.character not in self.classes:
                entry["skipped"] += 1
                continue
            self.images += 1
            entry["images"] += 1
            entry["extra"] += item.character not in _LEVEL1
            yield number, item


# -- report ----------------------------------------------------------------------------------------

_LEVEL1 = frozenset(LEVEL1)
HEADINGS = ("split", "set", "files", "writers", "records", "images", "official", "MB",
            "skipped", "undecodable", "damaged")  # fmt: skip


def report(run: Conversion) -> str:
    """Return the final table: every record of every source is in one of its columns."""
    groups: dict[tuple[str, str], list[tuple[str, dict]]] = {}
    for (split, prefix), entry in run.entries.items():
        groups.setdefault((split, origin(entry["source"])[0]), []).append((prefix, entry))
    rows = [HEADINGS]
    for (split, name), members in sorted(groups.items(), key=lambda g: (g[0][0] != "train", g[0])):
        symbols = any(entry["extra"] for _, entry in members)
        all_of_level1 = run.classes is None or run.classes >= _LEVEL1
        official = published(name, split, symbols) if all_of_level1 else "-"
        rows.append(_row(split, name, members, official))
    if len(groups) > 1:
        rows.append(_row("total", "", [m for members in groups.values() for m in members], ""))
    lines = [_table(rows)]
    for split, tree in sorted(run.trees.items(), reverse=True):
        classes = sum(entry.is_dir() for entry in os.scandir(tree.folder))
        lines.append(f"{tree.folder}: {classes:,} classes")
        unfinished = [key for key, entry in tree.sources.items() if not entry["complete"]]
        if earlier := [key for key in sorted(unfinished) if (split, key) not in run.entries]:
            lines.append(f"{tree.folder}: unfinished since an earlier run: {', '.join(earlier)}")
    for name in sorted({name for _, name in groups} & set(TOTALS)):
        writers, images = TOTALS[name]
        lines.append(f"{name} as published: {images:,} images by {writers} writers in all")
    return "\n".join(lines)


def _row(split: str, name: str, members: list[tuple[str, dict]], official: str) -> list[str]:
    total = {key: sum(entry[key] for _, entry in members) for key in COUNTS}
    damaged = total["records"] - total["images"] - total["skipped"] - total["undecodable"]
    writers = len({prefix.partition("+")[0] for prefix, _ in members})
    numbers = (len(members), writers, total["records"], total["images"])
    lost = (total["skipped"], total["undecodable"], damaged)
    size = f"{total['png_bytes'] / 1e6:,.1f}"
    return [split, name, *(f"{n:,}" for n in numbers), official, size, *(f"{n:,}" for n in lost)]


def _table(rows: list[list[str]]) -> str:
    """Return rows as text in columns, the first two to the left, numbers to the right."""
    columns = []
    for number, column in enumerate(zip(*rows, strict=True)):
        pad, width = str.rjust if number > 1 else str.ljust, max(map(len, column))
        columns.append([pad(cell, width) for cell in column])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def damages(run: Conversion) -> list[Damage]:
    """Return all damage of the sources of this run, with that of sources finished earlier."""
    return run.damaged + [
        Damage(entry["source"], offset, reason, kind)
        for entry in run.entries.values()
        for offset, kind, reason in entry["damage"]
    ]


# -- command line ----------------------------------------------------------------------------------

HELP_NO_DATA = f"""\
Nothing to convert: data/ holds no .gnt, .zip or .alz file.

Get the archives of CASIA-HWDB1.1 (about 2.3 GB; free for research) from
    {PAGE}
new names: Gnt1.1TrainPart1.zip, Gnt1.1TrainPart2.zip, Gnt1.1Test.zip
old names: HWDB1.1trn_gnt.zip (or ..._P1.zip, ..._P2.zip), HWDB1.1tst_gnt.zip
and put them into data/ as they are, or let the script fetch them:
    python process_gnt.py --download
or name files that lie elsewhere:    python process_gnt.py PATH...
Without the data: python synthesize_gnt.py makes a stand-in in the same format.
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Convert CASIA-HWDB archives or .gnt files to PNG files, a folder a character.",
        epilog="Exit status: 0 all well; 1 something was damaged (all that is good was kept); "
        "2 an error stopped the run; 130 interrupted (run again to go on).",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", type=Path,
        help=".gnt, .zip or .alz files or folders of them, mixed (default: data/)")  # fmt: skip
    add = parser.add_argument_group("conversion").add_argument
    add("--out", default="data", metavar="DIR", help="where train/ and test/ go (default: data)")
    add("--split", choices=("train", "test"),
        help="part for files whose name tells none (official names tell it)")  # fmt: skip
    add("--classes", default="all", metavar="SPEC",
        help="level1 (3755), symbols (171), all, a number N (the first N of level 1 in GB order), "
        "or a text file of characters (default: all)")  # fmt: skip
    add("--workers", type=int, default=cores(), metavar="N",
        help="processes that write (default: one a core, here %(default)s)")  # fmt: skip
    add("--limit", type=int, default=math.inf, metavar="N", help="stop after N images, to try")
    add = parser.add_argument_group("download").add_argument
    add("--download", action="store_true",
        help="fetch the official archives to --out first, then convert them")  # fmt: skip
    add("--set", choices=tuple(EDITIONS), default="1.1", help="which HWDB (default: 1.1)")
    add("--mirror", metavar="URL",
        help="fetch URL/<archive name> instead of from the official addresses")  # fmt: skip
    options = parser.parse_args(argv)
    check_range(options, 1, math.inf, "workers", "limit")
    return options


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parse(argv)
    classes = select_classes(options.classes)
    paths = list(options.paths)
    if options.download:
        from hwdb.download import download_set  # takes as long to load as all else

        with only_one(Path(options.out), "process_gnt.py --download"):
            paths += download_set(options.set, Path(options.out), options.mirror)
    if not paths:
        if not Path("data").is_dir() or not find_files([Path("data")]):
            print(HELP_NO_DATA, end="", file=sys.stderr)
            return 2
        paths = [Path("data")]
    files = find_files(paths)
    if not files:
        raise FileNotFoundError(f"no .gnt, .zip or .alz file in {', '.join(map(str, paths))}")
    run = Conversion(options, classes)
    mend = "is not read; unpack it and give its .gnt files"
    run.notes += [f"{file} {mend}" for file in other_archives(paths)]
    run.run(files)
    if run.overruled:
        said = f"--split {options.split} was not applied to {run.overruled} files"
        run.notes.append(f"{said} whose official names tell the part")
    for note in run.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    found = damages(run)
    for damage in found:
        what = printable(f"{damage.source} at byte {damage.offset}: {damage.reason}")
        print(f"damage: {what}", file=sys.stderr)
    print(report(run))
    if found:
        print(f"{len(found)} places were damaged; everything else was kept", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
