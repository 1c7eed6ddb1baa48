"""Feed the readers damaged input for a long time, and see that each keeps its promise.

    python -m tests.fuzz --minutes 10                      # all readers in turn
    python -m tests.fuzz --reader gnt zip --count 200000
    python -m tests.fuzz --reader zip --first 4711 --count 1   # one input again

A reader is a function below, named in READERS: it makes one input from a random generator, reads
it, asserts what is promised, and returns in a word what became of it. Whatever it raises is a
failure, shown with its traceback and with the number that repeats it; so is an input that takes
more than --seconds or raises the process's peak memory by more than --megabytes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

import checkpoint
from config import Config
from dataset import CharacterDataset
from hwdb.archives import GntFile, open_files
from hwdb.record import HEADER, Damage, Record, decode_tag, encode_tag, read_gnt
from jobs.command import command
from model import mobilenet_v3
from packing import open_pack
from picture import decode_picture, to_glyph
from recognizer import Recognizer
from tests.alz_writer import DEFLATE, STORE, alz

# -- damage ----------------------------------------------------------------------------------------

Change = tuple[int, int, bytes]  # at, how many bytes go, what comes instead
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def change(data: Sequence, changes: Sequence[Change], new: Callable = bytes) -> Sequence:
    """Return data after some changes; `new` makes what comes in out of bytes."""
    for at, gone, come in changes:
        at = min(at, len(data))
        data = data[:at] + new(come) + data[at + gone :]
    return data


def random_changes(rng: random.Random, size: int) -> list[Change]:
    """Return one to four changes such as files suffer, and such as people make who mean harm."""
    changes = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at, span = rng.randrange(size + 1), rng.choice((1, 2, 4, 12, 60))
        number = rng.choice(EXTREMES).to_bytes(4, "little")
        changes.append(
            rng.choice(
                (
                    (at, 1, bytes([rng.randrange(256)])),
                    (at, 1, bytes([1 << rng.randrange(8)])),
                    (at, 0, rng.randbytes(rng.randint(1, span))),
                    (at, rng.randint(1, span), b""),
                    (at, span, bytes([rng.choice((0, 255))]) * span),
                    (at, 4, number),
                    (at, 2, number[:2]),
                    (at, size, b""),
                )
            )
        )
    return changes


# -- .gnt ------------------------------------------------------------------------------------------

TEXT = "啊阿埃挨哎唉哀皑癌蔼A①"


def gnt_records(rng: random.Random) -> list[bytes]:
    """Return the records of a small file."""
    records = []
    for character in rng.sample(TEXT, rng.randint(1, len(TEXT))):
        width, height = rng.randint(1, 20), rng.randint(1, 20)
        header = HEADER.pack(10 + width * height, encode_tag(character), width, height)
        pixels = rng.choice((b"\xff" * 400, rng.randbytes(400)))[: width * height]
        records.append(header + pixels)
    return records


def check_gnt(records: list[bytes], changes: Sequence[Change]) -> str:
    """Read a damaged file: every byte belongs to a record or to damage, every record that is there
    as it was, with an unhurt one or the end behind it, is delivered, and none is invented.

    One thing cannot be seen without checksums: a record that lost just as many bytes as the next
    ones have, so that it ends where a record begins.
    """
    whole = b"".join(records)
    data = change(whole, changes)
    items = list(read_gnt(io.BytesIO(data), "x.gnt"))
    begin, delivered = 0, {}
    for item in items:
        assert item.offset == begin if begin is not None else True, "a gap without damage"
        begin = None  # behind damage the next item may begin anywhere
        if isinstance(item, Record):
            size, tag, width, height = HEADER.unpack_from(data, item.offset)
            begin = item.offset + size
            assert (item.width, item.height) == (width, height) and size == 10 + width * height
            assert item.pixels == data[item.offset + 10 : begin] and len(item.pixels) == size - 10
            assert item.character == decode_tag(tag)
            delivered[item.offset] = begin
    offsets = [item.offset for item in items]
    assert items and offsets == sorted(offsets) and (begin is None or begin == len(data))
    # Where each byte came from, -1 for what is new.
    origin = np.array(
        change(list(range(len(whole))), changes, lambda b: [-1] * len(b)), dtype=np.int64
    )
    unhurt, at = [], 0
    for record in records:
        place = np.flatnonzero(origin == at)
        there = len(place) and np.array_equal(
            origin[place[0] : place[0] + len(record)], np.arange(at, at + len(record))
        )
        unhurt.append(int(place[0]) if there else None)
        at += len(record)
    for i, place in enumerate(unhurt):
        if place is None:
            continue
        end = place + len(records[i])
        if end == len(data) or (i + 1 < len(records) and unhurt[i + 1] == end):
            hurt = {begin: end for begin, end in delivered.items() if begin not in unhurt}
            if any(begin < place < end for begin, end in hurt.items()):
                return "not to be seen"
            assert place in delivered, f"the record at {place} is lost"
    return "damaged" if any(isinstance(item, Damage) for item in items) else "read"


def fuzz_gnt(rng: random.Random) -> str:
    records = gnt_records(rng)
    return check_gnt(records, random_changes(rng, sum(map(len, records))))


# -- archives --------------------------------------------------------------------------------------


def archive_members(rng: random.Random) -> dict[str, bytes]:
    """Return .gnt files to pack."""
    numbers = rng.sample(range(1001, 1300), rng.randint(1, 4))
    return {f"{number}-c.gnt": b"".join(gnt_records(rng)) for number in numbers}


def make_zip(members: dict[str, bytes], rng: random.Random) -> bytes:
    stream = io.BytesIO()
    if rng.random() < 0.2:
        members = {"x/y.alz": make_alz(members, rng)}
    with zipfile.ZipFile(stream, "w", rng.choice((STORE, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def make_alz(members: dict[str, bytes], rng: random.Random) -> bytes:
    return alz(members, rng.choice((STORE, DEFLATE)))


def check_archive(
    make: Callable, rng: random.Random, changes: Callable[[int], Sequence[Change]], folder: Path
) -> str:
    """Read a damaged archive: every file of it is delivered whole, or something is named."""
    members = archive_members(rng)
    whole = make(members, rng)
    path = folder / f"x.{make.__name__[-3:]}"
    path.write_bytes(change(whole, changes(len(whole))))
    delivered, named = [], []
    for item in open_files([path]):
        assert "\n" not in (item.name if isinstance(item, GntFile) else item.source)
        if isinstance(item, Damage):
            named.append(item)
            continue
        stream, found = item.open(), b""
        try:
            while chunk := stream.read(1 << 16):
                found += chunk
        except OSError as error:
            named.append(error)
        else:
            if found:
                delivered.append(found)
            else:
                named.append(item)  # the reader of records says so
    for found in delivered:
        # No .gnt: the archive is none, and the bytes of the file itself are handed on.
        assert found in members.values() or found == path.read_bytes(), "a file is invented"
    if not named:
        assert sorted(delivered) == sorted(members.values()), "a file is lost in silence"
    return "damaged" if named else "read"


def fuzz_zip(rng: random.Random, folder: Path) -> str:
    return check_archive(make_zip, rng, lambda size: random_changes(rng, size), folder)


def fuzz_alz(rng: random.Random, folder: Path) -> str:
    return check_archive(make_alz, rng, lambda size: random_changes(rng, size), folder)


# -- checkpoints and packs -------------------------------------------------------------------------


@functools.lru_cache
def good_checkpoint() -> dict:
    """Return the content of a small checkpoint."""
    config = Config(width=0.25, head=8).to_dict()
    architecture = {key: config[key] for key in checkpoint.ARCHITECTURE}
    model = mobilenet_v3(num_classes=3, **architecture).state_dict()
    return {"format": 1, "model": model, "config": config, "classes": "一十口",
            "metrics": {"top1": 0.5}, "epoch": 2}  # fmt: skip


@functools.lru_cache
def good_file() -> bytes:
    stream = io.BytesIO()
    torch.save(good_checkpoint(), stream)
    return stream.getvalue()


def spoil(content: dict, rng: random.Random) -> None:
    """Put something odd in place of an entry, or take it away."""
    junk = (None, True, -1, 0, 10**30, 1e9, float("nan"), "", "64", b"x", [], [1], {}, {"a": 1}, (),
            torch.zeros(3), torch.zeros(1).expand(10**9), torch.zeros(8, 3).T,
            torch.eye(3).to_sparse(), torch.full((3, 8), float("inf")),
            torch.zeros(2, device="meta"))  # fmt: skip
    place = content
    while True:
        key = rng.choice(list(place))
        inner = place[key]
        if not isinstance(inner, dict) or not inner or rng.random() < 0.3:
            break
        place[key] = place = dict(inner)
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(junk)


def fuzz_checkpoint(rng: random.Random, folder: Path) -> str:
    """Load a damaged checkpoint: it is refused in a sentence, or it is whole and can be built.

    Most contents are checked without the way through a file, which takes ten times as long.
    """
    path = folder / "x.pt"
    changed = rng.random() < 0.5
    try:
        if changed:
            loaded = dict(good_checkpoint())
            for _ in range(rng.randint(1, 2)):
                spoil(loaded, rng)
            if rng.random() < 0.95:
                checkpoint.check(loaded)
                return "read"
            torch.save(loaded, path)
        else:
            path.write_bytes(change(good_file(), random_changes(rng, len(good_file()))))
        loaded = checkpoint.load(path)
    except ValueError as error:
        assert len(str(error)) < 1000
        return "refused"
    checkpoint.build_model(loaded)
    checkpoint.describe(loaded)
    if not changed:
        good = good_checkpoint()
        assert all(torch.equal(loaded["model"][name], t) for name, t in good["model"].items())
        assert all(loaded[key] == good[key] for key in ("config", "metrics", "epoch"))
    return "read"


def fuzz_pack(rng: random.Random, folder: Path) -> str:
    """Open a pack of which a file was changed: its parts go together, or it is made again."""
    source = folder / "pack-1001.gnt"
    source.write_bytes(b"".join(gnt_records(random.Random(7))))
    os.utime(source, (0, 0))
    with contextlib.redirect_stderr(io.StringIO()):
        pack = open_pack(source, 16, workers=1)
        before = (pack.folder / "pack.json").stat().st_mtime_ns
        file = rng.choice(
            [path for path in sorted(pack.folder.iterdir()) if "lock" not in path.name]
        )
        whole = file.read_bytes()
        file.write_bytes(change(whole, random_changes(rng, len(whole))))
        pack = open_pack(source, 16, workers=1)
        made = (pack.folder / "pack.json").stat().st_mtime_ns != before and file.name != "pack.json"
        assert len(pack) == len(pack.glyphs) == len(pack.labels) == len(pack.writer_ids)
        glyphs = CharacterDataset(pack, size=16)
        assert glyphs.fetch(np.arange(len(glyphs)))[0].shape == (len(pack), 16, 16)
        if not made:
            file.write_bytes(whole)
    return "made again" if made else "opened"


# -- pictures and networks -------------------------------------------------------------------------


@functools.lru_cache
def good_pictures() -> list[bytes]:
    """Return small pictures of every kind."""
    grey = np.full((30, 24), 255, np.uint8)
    grey[8:22, 10:13] = 20
    colour = np.dstack([grey, grey, grey])
    alpha = np.dstack([grey, grey, grey, 255 - grey])
    progressive = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    made = [
        *((kind, picture, ()) for kind in (".png", ".tif", ".webp") for picture in (colour, alpha)),
        *((kind, grey, ()) for kind in (".png", ".jpg", ".bmp", ".tif", ".pgm", ".pbm", ".gif")),
        *((kind, colour, ()) for kind in (".bmp", ".ppm")),
        *((kind, grey.astype(np.uint16) * 257, ()) for kind in (".png", ".tif", ".pgm")),
        (".jpg", colour, progressive),
        (".tif", grey.astype(np.float32), ()),
    ]
    found = [cv2.imencode(*one)[1] for one in made]
    return [data.tobytes() for data in found if len(data)]


def fuzz_picture(rng: random.Random, folder: Path) -> str:
    """Read a damaged picture: it is refused in a sentence, or gives a glyph."""
    data = rng.choice(good_pictures())
    early = rng.random() < 0.5  # the header
    data = change(data, random_changes(rng, min(len(data), 80) if early else len(data)))
    try:
        glyph = to_glyph(decode_picture(data), 32)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return "refused"
    assert glyph.shape == (32, 32) and glyph.dtype == np.uint8
    return "read"


@functools.lru_cache
def good_network() -> bytes:
    """Return an ONNX file of one layer."""
    import onnx
    from onnx import TensorProto, helper

    weights = onnx.numpy_helper.from_array(np.ones((256, 3), np.float32), "weights")
    nodes = [
        helper.make_node("Flatten", ["glyph"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    glyph = helper.make_tensor_value_info("glyph", TensorProto.FLOAT, ["N", 1, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "one", [glyph], [logits], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"classes": '["a", "b", "c"]', "config": '{"size": 16}'})
    return model.SerializeToString()


def fuzz_onnx(rng: random.Random, folder: Path) -> str:
    """Load a damaged ONNX file: it is refused in a sentence, or reads."""
    data = good_network()
    place = data.index(bytes(np.ones(8, np.float32)))  # the weights are the most of it
    changes = random_changes(rng, len(data) - 3072)
    changes = [(at if at < place else at + 3072, gone, come) for at, gone, come in changes]
    (folder / "x.onnx").write_bytes(change(data, changes))
    try:
        found = Recognizer.from_checkpoint(folder / "x.onnx").read(np.zeros((2, 16, 16), np.uint8))
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return "refused"
    assert len(found) == 2 and found[0][0].probability >= 0
    return "read"


# -- all -------------------------------------------------------------------------------------------

# Given a random generator and a folder for its files, each returns in a word what happened.
READERS: dict[str, Callable[[random.Random, Path], str]] = {
    "gnt": lambda rng, folder: fuzz_gnt(rng),
    "zip": fuzz_zip,
    "alz": fuzz_alz,
    "picture": fuzz_picture,
    "checkpoint": fuzz_checkpoint,
    "onnx": fuzz_onnx,
    "pack": fuzz_pack,
}


class TooLong(BaseException):
    """An input that takes so long that it is given up."""


def peak_megabytes() -> float:
    """Return the most memory that this process ever had."""
    import resource  # not on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def run(name: str, given: argparse.Namespace, until: float) -> int:
    """Run one reader and print its row; return the number of failures."""
    outcomes: Counter[str] = Counter()
    slowest, largest, memory = (0.0, 0), (0.0, 0), peak_megabytes()
    number = given.first
    memory_disk = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk takes most of the time
    with tempfile.TemporaryDirectory(dir=memory_disk) as folder:
        while number - given.first < given.count and time.monotonic() < until:
            begin = time.process_time()  # others may have the core
            signal.setitimer(signal.ITIMER_REAL, 10 * given.seconds)
            try:
                rng = random.Random(f"{name} {given.seed} {number}")
                outcome = READERS[name](rng, Path(folder))
            except (Exception, TooLong):
                outcome = "FAILED"
                print(f"{name} {number}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_REAL, 0)
            took, grown = time.process_time() - begin, peak_megabytes() - memory
            memory += grown
            slowest = max(slowest, (took, number))
            if number > given.first:  # the first one imports
                largest = max(largest, (grown, number))
            if outcome != "FAILED" and (took > given.seconds or largest[0] > given.megabytes):
                outcome = "FAILED"
                print(f"{name} {number}: {took:.1f} s, {grown:.0f} MB more", file=sys.stderr)
            outcomes[outcome] += 1
            number += 1
    words = ", ".join(f"{count:,} {word}" for word, count in sorted(outcomes.items()))
    print(
        f"{name}: {sum(outcomes.values()):,} inputs: {words}; slowest {slowest[0]:.2f} s "
        f"(number {slowest[1]}), most memory {memory:.0f} MB, {largest[0]:.0f} MB by one input",
        flush=True,
    )
    return outcomes["FAILED"]


def stop(*_: object) -> None:
    raise TooLong


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--reader", nargs="+", choices=READERS, default=list(READERS), help="default: all")
    add("--minutes", type=float, default=1e9, help="for all readers together")
    add("--count", type=int, default=10**12, help="inputs a reader")
    add("--first", type=int, default=0, help="number of the first input")
    add("--seed", type=int, default=0)
    add("--seconds", type=float, default=2.0, help="processor time an input may take (default: 2)")
    add("--megabytes", type=float, default=1000.0, help="an input may take more (default: 1000)")
    given = parser.parse_args(argv)
    if given.minutes == 1e9 and given.count == 10**12:
        parser.error("say --minutes or --count")
    signal.signal(signal.SIGALRM, stop)
    share, failed = 60 * given.minutes / len(given.reader), 0
    for name in given.reader:
        failed += run(name, given, time.monotonic() + share)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
