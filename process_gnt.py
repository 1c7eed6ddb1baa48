"""Convert the CASIA-HWDB archives, as downloaded, to a tree of PNG files, one folder per class.

    python process_gnt.py HWDB1.1trn_gnt.zip HWDB1.1tst_gnt.zip   # official files: train and test
    python process_gnt.py my_files/ --split train                 # .gnt files of any other name
    python process_gnt.py --download                              # fetch HWDB1.1 first
    python process_gnt.py                                         # everything in data/

    data/train/U+554A/1001_00017.png    1 channel, native size, 255 = paper, lossless
               |      |    number of the record in its file, from 0
               |      writer; 1001+2 in the names from a second file of the same writer
               class, by code point (啊)

An interrupted conversion continues when run again, and the result is byte for byte that of an
unbroken run. Each split has a state file, .process_gnt.jsonl, with one mark per source: from which
file, how many images, done or not. A source is skipped if the same content was converted without
damage and all its PNG files are there. A tree has one choice of --classes; another is refused.
Left out: any change of the images (picture/ does that).
"""

import argparse
import contextlib
import json
import math
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hwdb.archives import GntFile, find_files, open_files
from hwdb.characters import LEVEL1, folder_name, select_classes
from hwdb.record import Damage, Record, read_gnt
from hwdb.sets import EDITIONS, PAGE, TOTALS, origin, published, writer_of
from jobs.command import check_range, command, load_opencv, printable, progress, shorten
from jobs.files import is_hidden, only_one, write_file
from jobs.pool import Workers, cores

STATE, VERSION = ".process_gnt.jsonl", 4
COUNTS = ("images", "skipped", "damaged", "symbols", "png_bytes")
BATCH_BYTES = 1 << 20  # of bitmaps sent to a worker at a time

# -- images ----------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Images to write, each with its number; an empty batch ends a source."""

    folder: str
    prefix: str
    records: list[tuple[int, Record]]


def write_batch(batch: Batch) -> tuple[str, str, int, int]:
    """Write the images of a batch; return folder, prefix, number of images, and of bytes.

    Handwriting is long runs of paper: run-length encoding without row filters is the fastest
    setting, and about as small as the default filters at level 6 (benchmarks/convert.py).
    """
    import cv2  # in the workers only

    png = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
           cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]  # fmt: skip
    total = 0
    for number, record in batch.records:
        data = cv2.imencode(".png", record.bitmap, png)[1]
        name = f"{batch.prefix}_{number:05d}.png"
        _write(f"{batch.folder}/{folder_name(record.character)}/{name}", data.data)
        total += len(data)
    return batch.folder, batch.prefix, len(batch.records), total


def _write(path: str, data: memoryview) -> None:
    """Write a file in place; the mark of its source tells whether it is whole."""
    try:
        with open(path, "wb") as stream:
            stream.write(data)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _write(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


# -- the tree and its state file -------------------------------------------------------------------


class Tree:
    """One split on disk: class folders, and a mark for each source, by the prefix of its files."""

    def __init__(self, folder: Path, classes: str | None) -> None:
        self.folder = folder
        self.chosen = "all" if classes is None else "".join(sorted(classes))
        self.marks: dict[str, dict] = {}
        self._read_state()
        # How many images of each prefix there are, to be compared with the marks.
        self.present = Counter(name.rpartition("_")[0] for _, name in self._files())
        self.sources: Counter[str] = Counter()  # by writer
        self.known: dict[tuple | str, str] = {}  # prefix of a source by its content, by its place
        for prefix, mark in self.marks.items():
            self._remember(prefix, mark)
        self.claimed: set[str] = set()  # by sources of this run
        self.save()

    def _read_state(self) -> None:
        chosen = None
        for line in _lines(self.folder / STATE):
            if "prefix" in line:
                self.marks[line["prefix"]] = line
            elif line.get("version") == VERSION:
                chosen = line["classes"]
        if chosen is None and any(entry.is_dir() for entry in os.scandir(self.folder)):
            what = f"{self.folder} was not made by process_gnt.py, or by an older version of it"
            raise ValueError(f"{what}; give another --out or move it away")
        if chosen not in (None, self.chosen):
            both = (c if c == "all" else f"{len(c)} classes" for c in (chosen, self.chosen))
            what = "{} was made with another --classes ({}, now {})".format(self.folder, *both)
            raise ValueError(f"{what}; delete it or give another --out")

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield (folder, name) of every file in the class folders."""
        for entry in os.scandir(self.folder):
            if entry.is_dir() and not is_hidden(entry.name):
                yield from ((entry.path, name) for name in os.listdir(entry.path))

    def save(self) -> None:
        """Write the state file with one line per source, in an order that depends on them alone."""
        lines = [{"version": VERSION, "classes": self.chosen}]
        lines += [self.marks[prefix] for prefix in sorted(self.marks)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_file(self.folder / STATE, text.encode("ascii"))

    def mark(self, prefix: str) -> None:
        """Append the mark of a source to the state file; the last one counts."""
        with open(self.folder / STATE, "a", encoding="ascii") as stream:
            stream.write(json.dumps(self.marks[prefix]) + "\n")

    def _remember(self, prefix: str, mark: dict) -> None:
        writer = prefix.partition("+")[0]
        self.sources[writer.casefold()] += 1
        self.known[writer, mark["size"], mark["crc"]] = prefix
        self.known[mark["source"]] = prefix

    def claim(self, source: GntFile, writer: str) -> tuple[str, bool]:
        """Return the prefix of a source, and whether its images are there already.

        The same content is the same source, wherever it is. Otherwise a file at the place of
        another replaces it, and a further file of the same writer gets the prefix `writer+2`.
        """
        where, crc = _absolute(source), _checksum(source)
        prefix = self.known.get((writer, source.size, crc))
        if prefix is not None:
            mark = self.marks[prefix]
            whole = mark["done"] and self.present[prefix] == mark["images"]
            if prefix in self.claimed or whole:
                return prefix, True
        else:
            prefix = self.known.get(where)
        if prefix is None or prefix in self.claimed:
            number = self.sources[writer.casefold()] + 1
            prefix = writer if number == 1 else f"{writer}+{number}"
        else:
            self._remove(prefix)
            self.sources[writer.casefold()] -= 1
        mark = {"prefix": prefix, "source": where, "size": source.size, "crc": crc, "done": False}
        self.marks[prefix] = mark | dict.fromkeys(COUNTS, 0)
        self._remember(prefix, mark)
        self.mark(prefix)
        return prefix, False

    def _remove(self, prefix: str) -> None:
        """Delete the images of a source."""
        pattern = re.compile(re.escape(prefix) + r"_\d+\.png")
        for folder, name in self._files() if self.present[prefix] else ():
            if pattern.fullmatch(name):
                os.unlink(os.path.join(folder, name))


def _lines(path: Path) -> Iterator[dict]:
    """Yield the lines of a state file up to one that a kill has cut off."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        for line in path.read_text("ascii").splitlines():
            yield json.loads(line)


def _absolute(source: GntFile) -> str:
    return os.path.abspath(source.path) + source.name[len(str(source.path)) :]


def _checksum(source: GntFile) -> int:
    if source.crc is not None:
        return source.crc
    crc = 0
    with source.path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc


# -- conversion ------------------------------------------------------------------------------------


class Conversion:
    """One run: the sources in turn, their batches to the workers, everything counted."""

    def __init__(self, options: argparse.Namespace, classes: str | None) -> None:
        self.out, self.split, self.workers = Path(options.out), options.split, options.workers
        self.limit = options.limit
        self.classes = None if classes is None else frozenset(classes)
        self.trees: dict[str, Tree] = {}  # by split
        self.locks = contextlib.ExitStack()  # one per tree
        self.sources: list[tuple[str, str]] = []  # (split, prefix) of every source of the run
        self.notes: dict[str, None] = {}  # in order, each once
        self.damages: list[Damage] = []
        self.images = 0  # including those of sources that were done before

    def run(self, files: list[Path]) -> None:
        """Convert all files; raises ValueError and OSError for what the user has to settle."""
        total = sum(path.stat().st_size for path in files if path.is_file())
        self.bar = progress(total=total, unit="B", unit_scale=True)
        with self.locks, self.bar, Workers(self.workers) as workers:
            for folder, prefix, count, size in workers.map(write_batch, self._batches(files)):
                tree = self.trees[os.path.basename(folder)]
                mark = tree.marks[prefix]
                mark["png_bytes"] += size
                if not count:
                    # A damaged source is read again in the next run: a better copy may come.
                    mark["done"] = not mark["damaged"]
                    tree.mark(prefix)

    def _batches(self, files: list[Path]) -> Iterator[Batch]:
        """Yield the batches of all sources."""
        for item in open_files(files):
            if isinstance(item, GntFile):
                yield from self._convert(item)
                self.bar.update(item.packed)
            elif isinstance(item, Damage):
                self.damages.append(item)
            else:
                self.notes[item] = None
            if self.images >= self.limit:
                break

    def _tree(self, source: GntFile) -> tuple[str, Tree]:
        """Return split and tree of a source: official numbers decide, else the option."""
        split = origin(_absolute(source))[2]
        if split is None:
            split = self.split
        elif self.split not in (None, split):
            note = f"--split {self.split} is not applied to {split} files with official names"
            self.notes[note] = None
        if split is None:
            what = f"{source.name} is not an official train or test file"
            raise ValueError(f"{what}; add --split train or --split test")
        if split not in self.trees:
            self.locks.enter_context(only_one(self.out / split))
            self.trees[split] = Tree(self.out / split, self.classes)
            self.locks.callback(self.trees[split].save)
        return split, self.trees[split]

    def _convert(self, source: GntFile) -> Iterator[Batch]:
        """Yield the batches of a source, the last one empty."""
        split, tree = self._tree(source)
        prefix, there = tree.claim(source, writer_of(f"{Path(source.name).stem}.gnt"))
        if prefix in tree.claimed:
            self.notes[f"{source.name}: same content as another source; left out"] = None
            return
        tree.claimed.add(prefix)
        self.sources.append((split, prefix))
        mark = tree.marks[prefix]
        if there:
            self.images += mark["images"]
            return
        batch, size = Batch(str(tree.folder), prefix, []), 0
        for number, record in self._records(source, mark):
            batch.records.append((number, record))
            size += len(record.pixels)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = batch._replace(records=[]), 0
        if batch.records:
            yield batch
        if self.images < self.limit:  # else it is unfinished
            yield batch._replace(records=[])

    def _records(self, source: GntFile, mark: dict) -> Iterator[tuple[int, Record]]:
        """Yield the selected records of a source with their numbers, and count them all."""
        for number, item in enumerate(read_gnt(source.stream, source.name)):
            if self.images >= self.limit:
                return
            if isinstance(item, Damage):
                self.damages.append(item)
                mark["damaged"] += 1
            elif self.classes is not None and item.character not in self.classes:
                mark["skipped"] += 1
            else:
                self.images += 1
                mark["images"] += 1
                mark["symbols"] += item.character not in _LEVEL1
                yield number, item


# -- report ----------------------------------------------------------------------------------------

_LEVEL1 = frozenset(LEVEL1)
HEADINGS = ("split", "set", "files", "writers", "images", "official", "MB", "skipped", "damaged")
COLUMNS = "{:<5}  {:<11}  {:>5}  {:>7}  {:>9}  {:>21}  {:>7}  {:>9}  {:>7}"


def report(run: Conversion) -> str:
    """Return the final table: every record is an image, skipped by --classes, or damaged."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for split, prefix in run.sources:
        mark = run.trees[split].marks[prefix]
        groups.setdefault((split, origin(mark["source"])[0]), []).append(mark)
    lines = [COLUMNS.format(*HEADINGS)]
    all_of_level1 = run.classes is None or run.classes >= _LEVEL1
    for (split, name), marks in sorted(groups.items(), key=lambda g: (g[0][0] != "train", g[0])):
        symbols = any(mark["symbols"] for mark in marks)
        official = published(name, split, symbols) if all_of_level1 else "-"
        lines.append(_row(split, name, marks, official))
    if len(groups) > 1:
        lines.append(_row("total", "", sum(groups.values(), []), ""))
    for _, tree in sorted(run.trees.items(), reverse=True):
        classes = sum(entry.is_dir() for entry in os.scandir(tree.folder))
        lines.append(f"{tree.folder}: {classes:,} classes")
        unfinished = sorted(key for key, mark in tree.marks.items() if not mark["done"])
        if earlier := [key for key in unfinished if key not in tree.claimed]:
            what = "interrupted or damaged in an earlier run"
            lines.append(f"{tree.folder}: {what}: {shorten(earlier)}")
    for name in sorted({name for _, name in groups} & set(TOTALS)):
        writers, images = TOTALS[name]
        lines.append(f"{name} as published: {images:,} images by {writers} writers in all")
    return "\n".join(lines)


def _row(split: str, name: str, marks: list[dict], official: str) -> str:
    images, skipped, damaged, _, size = (sum(mark[key] for mark in marks) for key in COUNTS)
    writers = len({mark["prefix"].partition("+")[0] for mark in marks})
    counts = (f"{n:,}" for n in (len(marks), writers, images))
    megabytes = f"{size / 1e6:,.1f}"
    return COLUMNS.format(split, name, *counts, official, megabytes, f"{skipped:,}", f"{damaged:,}")


# -- command line ----------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Convert CASIA-HWDB archives or .gnt files to PNG files, one folder per class.",
        epilog="Exit status: 0 all well; 1 something was damaged (all that is intact was kept); "
        "2 an error stopped the run; 130 interrupted (run again to continue).",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", type=Path,
        help=".gnt, .zip or .alz files or folders of them, mixed (default: data/)")  # fmt: skip
    add = parser.add_argument_group("conversion").add_argument
    add("--out", default="data", metavar="DIR", help="where train/ and test/ go (default: data)")
    add("--split", choices=("train", "test"),
        help="split of files without an official name")  # fmt: skip
    add("--classes", default="all", metavar="SPEC",
        help="level1 (3755), symbols (171), all, a number N (the first N of level 1 in GB order), "
        "or a text file of characters (default: all)")  # fmt: skip
    add("--workers", type=int, default=cores(), metavar="N",
        help="processes that write (default: one per core, here %(default)s)")  # fmt: skip
    add("--limit", type=int, default=math.inf, metavar="N", help="stop after N images, to try")
    add = parser.add_argument_group("download").add_argument
    add("--download", action="store_true",
        help="fetch the official archives to --out first, then convert them")  # fmt: skip
    add("--set", choices=tuple(EDITIONS), help="which HWDB to fetch (default: 1.1)")
    add("--mirror", metavar="URL",
        help="fetch URL/<archive name> instead of from the official addresses")  # fmt: skip
    options = parser.parse_args(argv)
    check_range(options, 1, math.inf, "workers", "limit")
    if (options.set or options.mirror) and not options.download:
        parser.error("--set and --mirror choose what --download fetches")
    return options


def find_sources(options: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Return the files to convert, fetched first if so wanted, and notes on others."""
    paths = list(options.paths)
    if options.download:
        from hwdb.download import download_set  # slow to import

        with only_one(Path(options.out)):
            paths += download_set(options.set or "1.1", Path(options.out), options.mirror)
    files, notes = find_files(paths or [path for path in [Path("data")] if path.is_dir()])
    if not files:
        where = ", ".join(map(str, paths)) or "data/"
        what = f"no .gnt, .zip or .alz file in {where}" + "".join(f" ({n})" for n in notes[:1])
        get = f"get {', '.join(EDITIONS['1.1'][0].names)} (2.3 GB) from {PAGE}"
        raise FileNotFoundError(f"{what}; {get}, or run: python process_gnt.py --download")
    return files, notes


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parse(argv)
    load_opencv()  # its workers need it
    classes = select_classes(options.classes)
    files, notes = find_sources(options)
    run = Conversion(options, classes)
    run.run(files)
    for note in [*notes, *run.notes]:
        print(f"note: {printable(note)}", file=sys.stderr)
    for source, offset, reason in run.damages:
        print(f"damage: {printable(f'{source} at byte {offset}: {reason}')}", file=sys.stderr)
    print(report(run))
    if run.damages:
        what = "damaged places; everything else was converted"
        print(f"{len(run.damages)} {what}", file=sys.stderr)
    return 1 if run.damages else 0


if __name__ == "__main__":
    sys.exit(main())
