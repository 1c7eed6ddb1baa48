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
run: each split keeps a record of its sources (.process_gnt.json), a source without the mark
"complete" is converted anew, and a finished one is left alone as long as its content and its
number of PNG files agree with the record. One tree has one choice of --classes; another choice is
refused rather than mixed in. Left out: any change of the pictures (transforms.py does that).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import struct
import sys
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hwdb.archives import Source, Trouble, find_files, open_sources, other_archives
from hwdb.characters import LEVEL1, folder_name, select_classes
from hwdb.download import EDITIONS, PAGE, download_set
from hwdb.numbering import writer_and_split
from hwdb.record import Damage, read_records

STATE = ".process_gnt.json"
COUNTS = ("records", "images", "skipped", "undecodable", "extra", "png_bytes")
BATCH_BYTES = 1 << 20  # of bitmaps sent to a worker at a time
Item = tuple[int, str, int, int, bytes]  # index, character, width, height, pixels

# -- one picture -----------------------------------------------------------------------------------

# Handwriting is long runs of paper: run-length matching without row filters is both the fastest
# setting of zlib and smaller than the default filters at level 6 (benchmarks/convert.py).
LEVEL, WINDOW, MEMORY = 1, 15, 8


def encode_png(pixels: bytes, width: int, height: int) -> bytes:
    """Return a bitmap as an 8-bit greyscale PNG file."""
    rows = np.zeros((height, width + 1), np.uint8)  # column 0: filter type "none"
    rows[:, 1:] = np.frombuffer(pixels, np.uint8).reshape(height, width)
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW, MEMORY, zlib.Z_RLE)
    data = packer.compress(rows) + packer.flush()
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\r",
            header,
            struct.pack(">II4s", zlib.crc32(header), len(data), b"IDAT"),
            data,
            struct.pack(">I", zlib.crc32(data, zlib.crc32(b"IDAT"))),
            b"\0\0\0\0IEND\xaeB`\x82",
        )
    )


_made: set[str] = set()  # class folders that this process knows to exist


def write_batch(folder: str, prefix: str, items: list[Item]) -> int:
    """Write the pictures of a batch below `folder` and return their size in bytes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    total = 0
    for index, character, width, height, pixels in items:
        parent = f"{folder}/{folder_name(character)}"
        if parent not in _made:
            os.makedirs(parent, exist_ok=True)
            _made.add(parent)
        data = encode_png(pixels, width, height)
        path = f"{parent}/{prefix}_{index:05d}.png"
        handle = os.open(path, flags, 0o666)
        try:
            if os.write(handle, data) < len(data):
                raise OSError(f"{path} could not be written whole; is the disk full?")
        finally:
            os.close(handle)
        total += len(data)
    return total


# -- processes -------------------------------------------------------------------------------------


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    def leave_with_parent() -> None:
        wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


class Writers:
    """Processes that write batches, a few of which may wait; one process means this one."""

    def __init__(self, count: int) -> None:
        self.pool = ProcessPoolExecutor(count, initializer=_start_worker) if count > 1 else None
        self.limit = 3 * count
        self.waiting: deque[tuple[Future, Callable[[int], None]]] = deque()

    def submit(self, folder: str, prefix: str, items: list[Item], done: Callable[[int], None]):
        """Write a batch some time; `done` is called here with its size in bytes."""
        if self.pool is None:
            done(write_batch(folder, prefix, items))
            return
        self.waiting.append((self.pool.submit(write_batch, folder, prefix, items), done))
        self.finish(self.limit)

    def finish(self, left: int = 0) -> None:
        """Wait until at most `left` batches are unfinished."""
        while self.waiting and (len(self.waiting) > left or self.waiting[0][0].done()):
            future, done = self.waiting.popleft()
            done(future.result())

    def close(self) -> None:
        """End the processes; batches that have not begun are dropped."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


# -- the tree and its record -----------------------------------------------------------------------


class Tree:
    """One split on disk: class folders, and the record of the sources they come from."""

    def __init__(self, folder: Path, classes: str | None) -> None:
        self.folder = folder
        self.state_path = folder / STATE
        self.sources: dict[str, dict] = {}
        self.running: set[str] = set()  # prefixes claimed by this run
        chosen = "all" if classes is None else "".join(sorted(classes))
        self.chosen = chosen
        if self.state_path.exists():
            self._load(chosen)
        elif folder.is_dir() and any(entry.is_dir() for entry in os.scandir(folder)):
            raise ValueError(
                f"{folder} holds folders that process_gnt.py did not make; "
                "give another --out or move them away"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.present = self._count() if self.sources else Counter()

    def _load(self, chosen: str) -> None:
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            self.sources, before = state["sources"], state["classes"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.state_path} is damaged ({error}); delete {self.folder} and convert again"
            ) from None
        if self.sources and before != chosen:
            raise ValueError(
                f"{self.folder} was made with another --classes ({_describe(before)}, now "
                f"{_describe(chosen)}); delete it or give another --out"
            )

    def _count(self) -> Counter:
        """Count the pictures of each prefix."""
        counts: Counter = Counter()
        for entry in os.scandir(self.folder):
            if entry.is_dir():
                counts.update(name.rpartition("_")[0] for name in os.listdir(entry.path))
        return counts

    def _remove(self, prefix: str) -> None:
        pattern = re.compile(re.escape(prefix) + r"_\d+\.png")
        for entry in os.scandir(self.folder):
            if entry.is_dir():
                for name in filter(pattern.fullmatch, os.listdir(entry.path)):
                    os.unlink(os.path.join(entry.path, name))

    def save(self) -> None:
        """Write the record; a reader sees the old one or the new one."""
        state = {"classes": self.chosen, "sources": dict(sorted(self.sources.items()))}
        temporary = self.state_path.with_name(STATE + ".tmp")
        temporary.write_text(json.dumps(state, ensure_ascii=False, indent=0), encoding="utf-8")
        os.replace(temporary, self.state_path)

    def claim(self, source: Source, prefix: str) -> tuple[str, dict, bool]:
        """Return (prefix, entry, finished) of a source; the prefix is its own in this tree.

        A prefix belongs to the file that took it first. Another file of the same number gets
        `prefix-2` and so on, unless its content is the same: then it is that file.
        """
        name, base, number = _absolute(source), prefix, 1
        taken = {key.casefold(): key for key in self.sources}
        while (key := taken.get(prefix.casefold())) is not None:
            entry = self.sources[key]
            same = entry["size"] == source.size and entry["crc"] == _checksum(source)
            whole = entry["complete"] and self.present[key] == entry["images"]
            if same and (whole or key in self.running):
                return key, entry, True
            if key not in self.running and (same or _is_rest_of(entry, name, source.size)):
                self._remove(key)
                prefix = key
                break
            number += 1
            prefix = f"{base}-{number}"
        entry = {"source": name, "size": source.size, "crc": None, "complete": False}
        entry |= dict.fromkeys(COUNTS, 0) | {"damage": []}
        self.sources[prefix] = entry
        self.running.add(prefix)
        self.save()
        return prefix, entry, False


def _is_rest_of(entry: dict, name: str, size: int) -> bool:
    """Tell whether a record is of this file as it was, or of an interrupted run that read it."""
    moved = entry["size"] == size and Path(entry["source"]).name == Path(name).name
    return entry["source"] == name or (entry["crc"] is None and moved)


def _absolute(source: Source) -> str:
    inner = source.name[len(str(source.path)) :]
    return os.path.abspath(source.path) + inner


def _checksum(source: Source) -> int:
    if source.crc is not None:
        return source.crc
    crc = 0
    with source.path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc


def _describe(classes: str) -> str:
    return classes if classes == "all" else f"{len(classes)} classes"


# -- conversion ------------------------------------------------------------------------------------


class _Checksummed:
    """A stream that keeps the CRC-32 of what was read."""

    def __init__(self, stream) -> None:
        self.stream, self.crc = stream, 0

    def read(self, count: int) -> bytes:
        data = self.stream.read(count)
        self.crc = zlib.crc32(data, self.crc)
        return data


class Conversion:
    """One run: the sources in turn, their batches to the writers, everything counted."""

    def __init__(self, options: argparse.Namespace, classes: str | None) -> None:
        self.out, self.split = Path(options.out), options.split
        self.limit = math.inf if options.limit is None else options.limit
        self.classes = classes
        self.selected = None if classes is None else frozenset(classes)
        self.trees: dict[str, Tree] = {}
        self.entries: dict[tuple[str, str], dict] = {}  # (split, prefix) of every source of the run
        self.duplicates: list[str] = []
        self.overruled = 0
        self.troubles: list[Damage] = []
        self.written = 0  # pictures, this run
        self.images = 0  # pictures, with those of finished sources
        self.writers = Writers(options.workers)

    def run(self, files: list[Path]) -> None:
        """Convert all files; raises ValueError and OSError for what the user has to settle."""
        sizes = {file: file.stat().st_size for file in files}
        bar_format = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        bar = tqdm(total=sum(sizes.values()), bar_format=bar_format, disable=None)
        began = time.monotonic()
        behind, current = 0, None  # bytes of the files before the current one
        with bar:
            for source in open_sources(files):
                if isinstance(source, Trouble):
                    self.troubles.append(Damage(*source, "archive"))
                    continue
                if source.path != current:
                    behind += sizes.get(current, 0)
                    current = source.path
                for _ in self._convert(source):
                    bar.n = behind + source.position()
                    rate = self.written / max(1e-9, time.monotonic() - began)
                    bar.set_postfix_str(f"{self.written:,} images, {rate:,.0f} images/s", False)
                    bar.update(0)
                if self.images >= self.limit:
                    break
            self.writers.finish()
            bar.n = bar.total
        for tree in self.trees.values():
            tree.save()

    def _place(self, source: Source) -> tuple[str, str]:
        """Return (split, prefix) for a source: official numbers decide, else the option."""
        writer, split = writer_and_split(_absolute(source))
        if split is None:
            split = self.split
        elif self.split not in (None, split):
            self.overruled += 1
        if split is None:
            raise ValueError(
                f"{source.name} is not an official train or test file; "
                "say --split train or --split test"
            )
        stem = re.sub(r"[^\w.-]|_", "-", Path(source.name.replace("\\", "/")).stem)[:60]
        return split, writer or stem.strip(".") or "file"

    def _convert(self, source: Source) -> Iterator[None]:
        """Convert one source, pausing after each batch."""
        split, prefix = self._place(source)
        if split not in self.trees:
            self.trees[split] = Tree(self.out / split, self.classes)
        tree = self.trees[split]
        prefix, entry, finished = tree.claim(source, prefix)
        if (split, prefix) in self.entries:
            self.duplicates.append(source.name)
            return
        self.entries[split, prefix] = entry
        if finished:
            self.images += entry["images"]
            return
        job = _Job(tree, entry)
        stream = _Checksummed(source.open())  # belongs to open_sources
        for items in _batches(self._items(stream, source.name, job)):
            job.outstanding += 1
            done = partial(self._account, job, len(items))
            self.writers.submit(str(tree.folder), prefix, items, done)
            yield
        if not job.cut_short:
            entry["crc"] = stream.crc if source.crc is None else source.crc
            job.read_whole = True
            job.close()
        yield

    def _items(self, stream: _Checksummed, name: str, job: _Job) -> Iterator[Item]:
        """Yield the selected records of a source and count the others."""
        entry, selected = job.entry, self.selected
        for item in read_records(stream, name):
            if self.images >= self.limit:
                job.cut_short = True
                return
            index = entry["records"]
            if isinstance(item, Damage):
                entry["damage"].append([item.offset, item.kind, item.reason])
                entry["records"] += item.kind not in ("archive", "empty")
                entry["undecodable"] += item.kind == "tag"
                continue
            entry["records"] = index + 1
            character, width, height, pixels, _ = item
            if selected is not None and character not in selected:
                entry["skipped"] += 1
                continue
            entry["images"] += 1
            if character not in _LEVEL1:
                entry["extra"] += 1
            self.images += 1
            yield index, character, width, height, pixels

    def _account(self, job: _Job, count: int, size: int) -> None:
        """Count a batch that has been written."""
        job.entry["png_bytes"] += size
        self.written += count
        job.outstanding -= 1
        job.close()


class _Job:
    """A source being converted; closed when it is read to its end and all of it is written."""

    def __init__(self, tree: Tree, entry: dict) -> None:
        self.tree, self.entry = tree, entry
        self.outstanding = 0  # batches
        self.read_whole = self.cut_short = False

    def close(self) -> None:
        """Mark the source complete if it is; one whose archive is damaged is read again."""
        if self.read_whole and not self.outstanding:
            kinds = {kind for _, kind, _ in self.entry["damage"]}
            self.entry["complete"] = "archive" not in kinds
            self.tree.save()


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[4])
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# -- report ----------------------------------------------------------------------------------------

_LEVEL1 = frozenset(LEVEL1)

# Writers and pictures as published: (writers, pictures of level 1, pictures of all classes).
# The train and test parts of HWDB1.0 and 1.2 are only published together: (total, all classes).
OFFICIAL = {
    ("HWDB1.1", "train"): (240, 897_758, 938_679),
    ("HWDB1.1", "test"): (60, 223_991, 234_228),
    ("competition", "test"): (60, 224_419, None),
}
OFFICIAL_TOTAL = {
    "HWDB1.0": (420, 1_680_258),
    "HWDB1.1": (300, 1_172_907),
    "HWDB1.2": (300, 1_041_970),
}


def set_of(prefix: str, source: str) -> str:
    """Return the official set that a writer's number belongs to, or "synthetic", or "other"."""
    writer, split = writer_and_split(source)
    if writer is None or split is None or not prefix.startswith(writer):
        return "other"
    if writer.startswith("C"):
        return "competition"
    number = int(writer)
    if number > 10_000:
        return "synthetic"
    return "HWDB1.1" if number > 1000 else "HWDB1.0" if number <= 420 else "HWDB1.2"


def _official(name: str, split: str, entries: list[dict], classes: str | None) -> str:
    """Return the published number of pictures that these entries should have, "-" if none is."""
    counts = OFFICIAL.get((name, split))
    if counts is None or not (classes is None or set(classes) >= _LEVEL1):
        return "-"
    every = any(entry["extra"] for entry in entries)
    count = counts[2] if every else counts[1]
    return f"{count:,} ({counts[0]} writers)" if count else "-"


def table(rows: list[list[str]]) -> str:
    """Return rows as text in columns, the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def report(run: Conversion) -> str:
    """Return the final table: every record of every source is in one of its columns."""
    rows = [
        [
            "split",
            "set",
            "files",
            "writers",
            "records",
            "images",
            "official",
            "MB",
            "skipped",
            "undecodable",
            "damaged",
        ]
    ]
    groups: dict[tuple[str, str], list[tuple[str, dict]]] = {}
    for (split, prefix), entry in run.entries.items():
        key = split, set_of(prefix, entry["source"])
        groups.setdefault(key, []).append((prefix, entry))
    for (split, name), members in sorted(groups.items(), key=lambda g: (g[0][0] != "train", g[0])):
        entries = [entry for _, entry in members]
        official = _official(name, split, entries, run.classes)
        rows.append(_row(split, name, members, official))
    if len(groups) > 1:
        rows.append(_row("total", "", [m for members in groups.values() for m in members], ""))
    lines = [table(rows)]
    for split, tree in sorted(run.trees.items(), reverse=True):
        classes = sum(entry.is_dir() for entry in os.scandir(tree.folder))
        lines.append(f"{tree.folder}: {classes:,} classes")
        unfinished = sorted(
            key
            for key, entry in tree.sources.items()
            if not entry["complete"] and (split, key) not in run.entries
        )
        if unfinished:
            lines.append(f"{tree.folder}: unfinished since an earlier run: {', '.join(unfinished)}")
    for name in sorted({name for _, name in groups} & set(OFFICIAL_TOTAL)):
        writers, images = OFFICIAL_TOTAL[name]
        lines.append(f"{name} as published: {images:,} images by {writers} writers in all")
    return "\n".join(lines)


def _row(split: str, name: str, members: list[tuple[str, dict]], official: str) -> list[str]:
    total = Counter()
    for _, entry in members:
        total.update({key: entry[key] for key in COUNTS})
    damaged = total["records"] - total["images"] - total["skipped"] - total["undecodable"]
    numbers = [
        len(members),
        len({prefix for prefix, _ in members}),
        total["records"],
        total["images"],
    ]
    return [
        split,
        name,
        *(f"{number:,}" for number in numbers),
        official,
        f"{total['png_bytes'] / 1e6:,.1f}",
        *(f"{number:,}" for number in (total["skipped"], total["undecodable"], damaged)),
    ]


def damages(run: Conversion) -> list[Damage]:
    """Return all damage of the sources of this run, with that of sources finished earlier."""
    found = list(run.troubles)
    for entry in run.entries.values():
        for offset, kind, reason in entry["damage"]:
            found.append(Damage(entry["source"], offset, reason, kind))
    return found


# -- command line ----------------------------------------------------------------------------------

HELP_NO_DATA = f"""\
Nothing to convert: {{folder}}/ holds no .gnt, .zip or .alz file.

1. Get the archives of CASIA-HWDB1.1 (about 2.3 GB; free for research) from
       {PAGE}
   new names   Gnt1.1TrainPart1.zip  Gnt1.1TrainPart2.zip  Gnt1.1Test.zip
   old names   HWDB1.1trn_gnt.zip (or ..._P1.zip, ..._P2.zip)  HWDB1.1tst_gnt.zip
   Also read: HWDB1.0, HWDB1.2 (Gnt1.0..., Gnt1.2...) and competition-gnt.zip.
2. Put them into {{folder}}/ as they are; do not unpack them.
3. Run
       python process_gnt.py

Or let the script fetch them:        python process_gnt.py --download
Or name files that lie elsewhere:    python process_gnt.py PATH...
Without the data: python synthesize_gnt.py makes a stand-in in the same format.
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Convert CASIA-HWDB archives or .gnt files to PNG files, a folder a character.",
        epilog="Exit status: 0 all well; 1 something was damaged (all that is good was kept); "
        "2 an error stopped the run; 130 interrupted (run again to go on).",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        type=Path,
        help=".gnt, .zip or .alz files or folders of them, in any mix (default: data/)",
    )
    add = parser.add_argument_group("conversion").add_argument
    add("--out", default="data", metavar="DIR", help="where train/ and test/ go (default: data)")
    add(
        "--split",
        choices=("train", "test"),
        help="part for files whose name tells none (official names tell it)",
    )
    add(
        "--classes",
        default="all",
        metavar="SPEC",
        help="level1 (3755), symbols (171), all, a number N (the first N of level 1 in GB order), "
        "or a text file of characters (default: all)",
    )
    add(
        "--workers",
        type=int,
        default=_cores(),
        metavar="N",
        help="processes that write (default: one a core, here %(default)s)",
    )
    add("--limit", type=int, metavar="N", help="stop after N images, for a quick try")
    group = parser.add_argument_group("download")
    group.add_argument(
        "--download",
        action="store_true",
        help="fetch the official archives to --out first, then convert them",
    )
    group.add_argument(
        "--set", choices=tuple(EDITIONS), default="1.1", help="which HWDB (default: 1.1)"
    )
    group.add_argument(
        "--mirror",
        metavar="URL",
        help="fetch URL/<archive name> instead of from the official addresses",
    )
    options = parser.parse_args(argv)
    if options.workers < 1:
        parser.error("--workers: at least 1")
    if options.limit is not None and options.limit < 1:
        parser.error("--limit: at least 1")
    return options


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def convert(options: argparse.Namespace) -> int:
    """Do what the options say and return the exit status."""
    classes = select_classes(options.classes)
    paths = list(options.paths)
    if options.download:
        paths += download_set(options.set, Path(options.out), options.mirror)
    if not paths:
        if not Path("data").is_dir() or not find_files([Path("data")]):
            print(HELP_NO_DATA.format(folder="data"), end="", file=sys.stderr)
            return 2
        paths = [Path("data")]
    files = find_files(paths)
    if not files:
        raise FileNotFoundError(f"no .gnt, .zip or .alz file in {', '.join(map(str, paths))}")
    for file in other_archives(paths):
        print(f"note: {file} is not read; unpack it and give its .gnt files", file=sys.stderr)
    run = Conversion(options, classes)
    try:
        run.run(files)
    finally:
        run.writers.close()
    if run.overruled:
        print(
            f"note: --split {options.split} was not applied to {run.overruled} files whose "
            "official names tell the part",
            file=sys.stderr,
        )
    for name in run.duplicates:
        print(f"note: {name} has the same content as another source; left out", file=sys.stderr)
    found = damages(run)
    for damage in found:
        print(f"damage: {damage.source} at byte {damage.offset}: {damage.reason}", file=sys.stderr)
    print(report(run))
    if found:
        print(f"{len(found)} places were damaged; everything else was kept", file=sys.stderr)
    return 1 if found else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parse(argv)
    try:
        return convert(options)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print(
            "error: a writing process was killed (out of memory?); run again to go on",
            file=sys.stderr,
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
