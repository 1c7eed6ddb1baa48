"""Convert CASIA-HWDB archives, as downloaded, to a tree of PNG files, one folder per class.

    python process_gnt.py HWDB1.1trn_gnt.zip HWDB1.1tst_gnt.zip   # official files: train and test
    python process_gnt.py my_files/ --split train                 # .gnt files of any other name
    python process_gnt.py --download                              # download HWDB1.1 first
    python process_gnt.py                                         # everything in data/

    data/train/U+554A/1001_00017.png    1 channel, native size, 255 = paper, lossless
               |      |    number of the record in its file, from 0
               |      writer; 1001+2 in the names from a second file of the same writer
               class, by code point (啊)

An interrupted conversion resumes when run again and produces the same images. Each split has a
state file, .process_gnt.jsonl: a header, then one line whenever a source begins or ends; the last
line of a source is valid. A source is skipped if the same content was converted without damage and
all its PNG files exist. All sources of a tree are converted with the same --classes.
"""

import argparse
import contextlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hwdb.archives import GntFile, find_files, open_files
from hwdb.characters import folder_name, select_classes
from hwdb.record import Damage, Record, read_gnt
from hwdb.sets import EDITIONS, PAGE, PUBLISHED, origin, writer_of
from jobs.command import check_range, command, load_opencv, printable, progress
from jobs.files import checksum_of, only_one, write_file
from jobs.pool import Workers, cores

STATE, VERSION = ".process_gnt.jsonl", 4
COUNTS = ("images", "skipped", "damaged")
BATCH_BYTES = 1 << 20  # of bitmaps sent to a worker at a time

# -- images ----------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Images of one source to write."""

    folder: str  # of the split
    prefix: str
    records: list[tuple[int, Record]]  # with their numbers in the source
    last: bool  # of the source


def write_batch(batch: Batch) -> Batch:
    """Write the images of a batch; return it without them.

    Handwriting is long runs of paper: run-length encoding without row filters is the fastest
    setting, and about as small as the default filters at level 6 (benchmarks/convert.py).
    """
    import cv2  # in the workers only

    png = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
           cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]  # fmt: skip
    for number, record in batch.records:
        data = cv2.imencode(".png", record.bitmap, png)[1]
        name = f"{batch.prefix}_{number:05d}.png"
        _write(f"{batch.folder}/{folder_name(record.character)}/{name}", data.data)
    return batch._replace(records=[])


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

    def __init__(self, folder: str, classes: frozenset[str] | None) -> None:
        os.makedirs(folder, exist_ok=True)
        self.folder, self.state = folder, Path(folder, STATE)
        chosen = "all" if classes is None else "".join(sorted(classes))
        head = {"version": VERSION, "classes": chosen}
        folders = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
        found, *marks = _lines(self.state) or [None]
        if found != head:
            marks = []
            if folders:
                what = "was made with another --classes or not by this version of process_gnt.py"
                raise ValueError(f"{folder} {what}; delete it or give another --out")
        self.marks = {mark["prefix"]: mark for mark in marks}
        # How many images of each prefix there are, to be compared with the marks.
        names = (name for path in folders for name in os.listdir(path))
        self.present = Counter(name.rpartition("_")[0] for name in names)
        self.sources = Counter(_writer(prefix).casefold() for prefix in self.marks)
        self.known: dict[tuple | str, str] = {}  # prefix of a source by its content, by its place
        for mark in self.marks.values():
            self._remember(mark)
        self.claimed: set[str] = set()  # prefixes of the sources of this run
        if found != head or not self.state.read_bytes().endswith(b"\n"):  # or packs would age
            lines = [json.dumps(line) + "\n" for line in (head, *self.marks.values())]
            write_file(self.state, "".join(lines).encode("ascii"))

    def _remember(self, mark: dict) -> None:
        writer = _writer(mark["prefix"])
        self.known[writer, mark["size"], mark["crc"]] = mark["prefix"]
        self.known[mark["source"]] = mark["prefix"]

    def claim(self, source: GntFile, writer: str) -> dict | None:
        """Return the mark of a source, `done` if its images are there; None if it came before.

        The same content is the same source, wherever it is. Otherwise a file at the place of
        another replaces it, and a further file of the same writer gets the prefix `writer+2`.
        Raises ValueError if synthetic and other files would stand in one tree.
        """
        where = _absolute(source)
        first = next(iter(self.marks.values()), {"source": where})["source"]
        if len({origin(path)[0] == "synthetic" for path in (first, where)}) > 1:
            what = f"{self.folder} would mix synthetic and other files, {first} and {where}"
            raise ValueError(f"{what}; convert each kind into a folder of its own: --out DIR")
        crc = checksum_of(source.path) if source.crc is None else source.crc
        same = self.known.get((writer, source.size, crc))
        if same in self.claimed:
            return None
        prefix = same or self.known.get(where)
        if prefix is None or prefix in self.claimed:
            self.sources[writer.casefold()] += 1
            number = self.sources[writer.casefold()]
            prefix = writer if number == 1 else f"{writer}+{number}"
        elif not same:
            self.known = {key: p for key, p in self.known.items() if p != prefix}
            for path in Path(self.folder).glob(f"*/{prefix}_*.png"):
                path.unlink()
        self.claimed.add(prefix)
        if same and self.marks[same]["done"] and self.present[same] == self.marks[same]["images"]:
            return self.marks[same]
        mark = {"prefix": prefix, "source": where, "size": source.size, "crc": crc, "done": False}
        self.marks[prefix] = mark | dict.fromkeys(COUNTS, 0)
        self._remember(mark)
        self.save(prefix)
        return self.marks[prefix]

    def save(self, prefix: str) -> None:
        """Append the mark of a source to the state file."""
        with self.state.open("a", encoding="ascii") as stream:
            stream.write(json.dumps(self.marks[prefix]) + "\n")


def _lines(path: Path) -> list[dict]:
    """Return the lines of a state file up to one that a kill has cut off."""
    lines = []
    with contextlib.suppress(FileNotFoundError, ValueError):
        for line in path.read_text("ascii").splitlines():
            lines.append(json.loads(line))
    return lines


def _writer(prefix: str) -> str:
    return prefix.partition("+")[0]


def _absolute(source: GntFile) -> str:
    return os.path.abspath(source.path) + source.name[len(str(source.path)) :]


# -- conversion ------------------------------------------------------------------------------------


class Conversion:
    """One run: the sources in turn, their batches to the workers, everything counted."""

    def __init__(self, out: Path, split: str | None, classes: str | None) -> None:
        self.out, self.split = out, split
        self.classes = None if classes is None else frozenset(classes)
        self.trees: dict[str, Tree] = {}  # by folder
        self.notes: list[str] = []
        self.damages: list[Damage] = []

    def run(self, files: list[Path], processes: int) -> None:
        """Convert all files; raises ValueError and OSError for what the user has to settle."""
        total = sum(path.stat().st_size for path in files if path.is_file())
        self.bar = progress(total=total, unit="B", unit_scale=True)
        with only_one(self.out), self.bar, Workers(processes) as workers:
            for batch in workers.map(write_batch, self._batches(files)):
                if batch.last:
                    tree = self.trees[batch.folder]
                    mark = tree.marks[batch.prefix]
                    # A damaged source is read again in the next run: a better copy may come.
                    mark["done"] = not mark["damaged"]
                    tree.save(batch.prefix)

    def _batches(self, files: list[Path]) -> Iterator[Batch]:
        """Yield the batches of all sources."""
        for item in open_files(files):
            if isinstance(item, GntFile):
                yield from self._convert(item)
                self.bar.update(item.packed)
            elif isinstance(item, Damage):
                self.damages.append(item)
            else:
                self.notes.append(item)

    def _convert(self, source: GntFile) -> Iterator[Batch]:
        """Yield the batches of a source; official numbers decide its split, else the option."""
        split = origin(_absolute(source))[2] or self.split
        if split is None:
            what = f"{source.name} is not an official train or test file"
            raise ValueError(f"{what}; add --split train or --split test")
        folder = os.path.join(self.out, split)
        if folder not in self.trees:
            self.trees[folder] = Tree(folder, self.classes)
        mark = self.trees[folder].claim(source, writer_of(f"{Path(source.name).stem}.gnt"))
        if mark is None:
            self.notes.append(f"{source.name}: same content as another source; left out")
            return
        if mark["done"]:
            return
        batch, size = Batch(folder, mark["prefix"], [], last=False), 0
        for number, item in enumerate(read_gnt(source.stream, source.name)):
            if isinstance(item, Damage):
                self.damages.append(item)
                mark["damaged"] += 1
            elif self.classes is not None and item.character not in self.classes:
                mark["skipped"] += 1
            else:
                mark["images"] += 1
                batch.records.append((number, item))
                size += len(item.pixels)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = batch._replace(records=[]), 0
        yield batch._replace(last=True)


# -- report ----------------------------------------------------------------------------------------

HEADING = "split  set          files  writers      images    skipped  damaged"
ROW = "{:<5}  {:<11}  {:>5,}  {:>7,}  {:>10,}  {:>9,}  {:>7,}"


def report(trees: list[Tree]) -> str:
    """Return the final table: every record is an image, skipped by --classes, or damaged."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for tree in trees:
        for mark in map(tree.marks.get, tree.claimed):
            group = os.path.basename(tree.folder), origin(mark["source"])[0]
            groups.setdefault(group, []).append(mark)
    lines = [HEADING]
    for (split, name), marks in sorted(groups.items(), reverse=True):  # train before test
        writers = len({_writer(mark["prefix"]) for mark in marks})
        counts = [sum(mark[key] for mark in marks) for key in COUNTS]
        lines.append(ROW.format(split, name, len(marks), writers, *counts))
    for tree in trees:
        classes = sum(entry.is_dir() for entry in os.scandir(tree.folder))
        lines.append(f"{tree.folder}: {classes:,} classes")
    for name in sorted({name for _, name in groups} & set(PUBLISHED)):
        lines.append(f"{name} as published: {PUBLISHED[name]}")
    return "\n".join(lines)


# -- command line ----------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Convert CASIA-HWDB archives or .gnt files to PNG files, one folder per class.",
        epilog="Exit status: 0 success; 1 some records were damaged (all others were converted); "
        "2 an error stopped the run; 130 interrupted (run again to resume).",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", type=Path,
        help=".gnt, .zip or .alz files, or folders of them (default: data/)")  # fmt: skip
    add = parser.add_argument_group("conversion").add_argument
    add("--out", type=Path, default="data", metavar="DIR",
        help="folder for train/ and test/ (default: %(default)s)")  # fmt: skip
    add("--split", choices=("train", "test"),
        help="split for files without an official name")  # fmt: skip
    add("--classes", default="all", metavar="SPEC",
        help="classes to convert: level1 (3755), symbols (171), digits, letters, punctuation, all, "
        "a number N (the first N in GB order) or a file of characters (default: all)")  # fmt: skip
    add("--workers", type=int, default=cores(), metavar="N",
        help="processes that write images (default: one per core, here %(default)s)")  # fmt: skip
    add = parser.add_argument_group("download").add_argument
    add("--download", action="store_true",
        help="download the official archives to --out first, then convert them")  # fmt: skip
    add("--set", choices=tuple(EDITIONS), help="version of HWDB to download (default: 1.1)")
    add("--mirror", metavar="URL",
        help="download URL/<archive name> instead of using the official addresses")  # fmt: skip
    options = parser.parse_args(argv)
    check_range(options, 1, math.inf, "workers")
    return options


def find_sources(options: argparse.Namespace) -> list[Path]:
    """Return the files to convert, fetched first if so wanted; print notes on others."""
    paths = options.paths
    if options.download or options.set or options.mirror:
        from hwdb.download import download_set  # slow to import

        with only_one(options.out):
            paths = [*paths, *download_set(options.set or "1.1", options.out, options.mirror)]
    elif not paths and os.path.isdir("data"):
        paths = [Path("data")]
    files, notes = find_files(paths)
    _print("note", notes)
    if not files:
        where = ", ".join(map(str, paths)) or "data/"
        get = f"get {', '.join(EDITIONS['1.1'][0].names)} (2.3 GB) from {PAGE}"
        what = f"no .gnt, .zip or .alz file in {where}; {get}"
        raise FileNotFoundError(f"{what}, or run: python process_gnt.py --download")
    return files


def _print(kind: str, lines: list[str]) -> None:
    for line in lines:
        print(f"{kind}: {printable(line)}", file=sys.stderr)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parse(argv)
    load_opencv()  # its workers need it
    classes = select_classes(options.classes)
    files = find_sources(options)
    run = Conversion(options.out, options.split, classes)
    run.run(files, options.workers)
    _print("note", run.notes)
    _print("damage", [f"{name} at byte {offset}: {what}" for name, offset, what in run.damages])
    print(report(list(run.trees.values())))
    if not run.damages:
        return 0
    print(f"damaged places: {len(run.damages)}; everything else was converted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
