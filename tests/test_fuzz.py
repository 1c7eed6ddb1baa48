"""Damaged input gives a result or a one-line error, never a traceback, a hang, or a silent loss.

    python -m pytest tests/test_fuzz.py               # the same few hundred inputs each time
    FUZZ=100000 python -m pytest tests/test_fuzz.py   # as many new inputs of each kind

Inputs are mutations of small valid files.
"""

import functools
import io
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from alz_writer import DEFLATE, STORE, alz, zipped
from conftest import write_gnt
from hypothesis import given, settings
from hypothesis import strategies as st

import checkpoint
from config import Config
from hwdb.archives import GntFile, open_files
from hwdb.record import HEADER, Record, decode_tag, encode_tag, read_gnt
from model import mobilenet_v3
from packing import open_pack
from picture import decode_picture, find_proposals

COUNT = int(os.environ.get("FUZZ", "0"))
TEXT = "啊阿埃挨哎唉哀皑癌蔼A①"
EXTREMES = [n.to_bytes(4, "little") for n in (0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 1 << 20)]
# Where, as a share of the length or counted from the end; how many bytes go; what comes.
CHANGES = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.integers(-80, 80)),
        st.integers(0, 8) | st.just(1 << 20),
        st.sampled_from(EXTREMES) | st.binary(max_size=20),
    ),
    min_size=1,
    max_size=3,
)
Change = tuple[float | int, int, bytes]


def fuzz(count: int, *strategies: st.SearchStrategy) -> Callable:
    """Call a test with `count` inputs, the same in every run, or with FUZZ new ones."""

    def decorate(test: Callable) -> Callable:
        mode = {"derandomize": not COUNT, "deadline": None, "database": None}
        return settings(max_examples=COUNT or count, **mode)(given(*strategies)(test))

    return decorate


def change(data: Sequence, changes: list[Change], new: Callable = bytes) -> Sequence:
    """Return data after some changes; `new` converts what is inserted from bytes."""
    for where, gone, come in changes:
        at = int(where * len(data)) if isinstance(where, float) else where % (len(data) + 1)
        data = data[:at] + new(come) + data[at + gone :]
    return data


# -- .gnt ------------------------------------------------------------------------------------------


def gnt_records(seed: int) -> list[bytes]:
    """Return the records of a small file."""
    rng = random.Random(seed)
    records = []
    for character in rng.sample(TEXT, rng.randint(1, len(TEXT))):
        width, height = rng.randint(1, 20), rng.randint(1, 20)
        header = HEADER.pack(10 + width * height, encode_tag(character), width, height)
        pixels = rng.choice((b"\xff" * 400, rng.randbytes(400)))[: width * height]
        records.append(header + pixels)
    return records


def check_items(data: bytes) -> dict[int, int]:
    """Check that every byte belongs to a record or to damage; return begin -> end of records."""
    begin, delivered = 0, {}
    items = list(read_gnt(io.BytesIO(data), "x.gnt"))
    for item in items:
        assert begin in (None, item.offset), "a gap without damage"
        begin = None  # after damage the next item may begin anywhere
        if isinstance(item, Record):
            size, tag, width, height = HEADER.unpack_from(data, item.offset)
            begin = item.offset + size
            assert (item.width, item.height) == (width, height) and size == 10 + width * height
            assert item.pixels == data[item.offset + 10 : begin] and len(item.pixels) == size - 10
            assert item.character == decode_tag(tag)
            delivered[item.offset] = begin
    offsets = [item.offset for item in items]
    assert items and offsets == sorted(offsets) and begin in (None, len(data))
    return delivered


@fuzz(200, st.integers(0, 1000), CHANGES)
def test_unhurt_records_are_delivered_and_none_is_invented(seed, changes):
    """Every record that is followed by an unhurt one or by the end is delivered.

    One case cannot be seen without checksums: a record that lost just as many bytes as the next
    ones have, so that it ends where a record begins.
    """
    records = gnt_records(seed)
    whole = b"".join(records)
    data = change(whole, changes)
    delivered = check_items(data)
    # Where each byte came from, -1 for what is new.
    origin = change(list(range(len(whole))), changes, lambda come: [-1] * len(come))
    unhurt, at = [], 0  # where each record is now, if it is whole
    for record in records:
        place = origin.index(at) if at in origin else -1
        there = origin[place : place + len(record)] == list(range(at, at + len(record)))
        unhurt.append(place if place >= 0 and there else None)
        at += len(record)
    for record, place, after in zip(records, unhurt, [*unhurt[1:], None], strict=True):
        if place is not None and place + len(record) in (len(data), after):
            hurt = [(b, e) for b, e in delivered.items() if b not in unhurt]
            assert place in delivered or any(b < place < e for b, e in hurt), f"lost: {place}"


# -- archives --------------------------------------------------------------------------------------

PACKERS = {
    "zip": lambda members, method: zipped(members, 8 if method else 0),
    "alz": lambda members, method: alz(members, DEFLATE if method else STORE),
    "alz in zip": lambda members, method: zipped({"x/y.alz": alz(members, STORE)}, 8 * method),
}


def read_all(path: Path) -> tuple[list[bytes], list]:
    """Return what an archive delivers, and what it names as damaged."""
    delivered, named = [], []
    for item in open_files([path]):
        if not isinstance(item, GntFile):
            named.append(item)
            continue
        found = b""
        try:
            while chunk := item.stream.read(1 << 16):
                found += chunk
        except OSError as error:
            named.append(error)
        else:
            (delivered if found else named).append(found)  # the reader of records names empty ones
    return delivered, named


@pytest.mark.parametrize("kind", PACKERS)
def test_members_are_delivered_whole_or_something_is_named(kind):
    @fuzz(100, st.integers(0, 1000), CHANGES, st.booleans())
    def check(seed, changes, method):
        members = {
            f"{1001 + i}-c.gnt": b"".join(gnt_records(seed + i)) for i in range(seed % 4 + 1)
        }
        data = change(PACKERS[kind](members, method), changes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.archive")
            path.write_bytes(data)
            delivered, named = read_all(path)
        # Without the first bytes of an archive a file is taken for a .gnt file.
        assert all(found in members.values() or found == data for found in delivered)
        if not named:
            assert delivered == [data] or sorted(delivered) == sorted(members.values())

    check()


# -- pictures, checkpoints, packs ------------------------------------------------------------------


@functools.cache
def good_pictures() -> list[bytes]:
    """Return small pictures of every kind."""
    grey = np.full((30, 24), 255, np.uint8)
    grey[8:22, 10:13] = 20
    kinds = {
        ".png": (grey, np.dstack([grey] * 3), np.dstack([grey] * 4), grey.astype(np.uint16) * 257),
        ".tif": (grey, np.dstack([grey] * 4), grey.astype(np.float32)),
        ".jpg": (grey, np.dstack([grey] * 3)),
        ".webp": (np.dstack([grey] * 4),), ".bmp": (grey,), ".pgm": (grey,),
    }  # fmt: skip
    return [cv2.imencode(k, picture)[1].tobytes() for k, some in kinds.items() for picture in some]


@fuzz(200, st.integers(0, 1000), CHANGES)
def test_damaged_pictures(seed, changes):
    data = change(good_pictures()[seed % len(good_pictures())], changes)
    try:
        glyphs = find_proposals(decode_picture(data), 32).glyphs
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert glyphs.shape[1:] == (32, 32) and glyphs.dtype == np.uint8 and len(glyphs)


@functools.cache
def good_checkpoint() -> tuple[dict, bytes]:
    """Return the content of a small checkpoint, and its file."""
    config = Config(width=0.25, head=8).to_dict()
    architecture = {key: config[key] for key in checkpoint.ARCHITECTURE}
    model = mobilenet_v3(num_classes=3, **architecture).state_dict()
    content = {"format": 1, "model": model, "config": config, "classes": "一十口",
               "metrics": {"top1": 0.5}, "epoch": 2}  # fmt: skip
    stream = io.BytesIO()
    torch.save(content, stream)
    return content, stream.getvalue()


@fuzz(60, CHANGES)
def test_damaged_checkpoints(changes):
    content, data = good_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pt")
        path.write_bytes(change(data, changes))
        try:
            loaded = checkpoint.load(path)
        except ValueError as error:
            assert len(str(error)) < 1000
            return
    checkpoint.build_model(loaded)
    for name, tensor in content["model"].items():
        assert torch.equal(loaded["model"][name], tensor)
    assert all(loaded[key] == content[key] for key in ("config", "metrics", "epoch"))


JUNK = [None, True, -1, 10**30, float("nan"), "", b"x", [], [1], {}, {"a": 1}, torch.zeros(3),
        torch.zeros(1).expand(10**9), torch.zeros(2, device="meta")]  # fmt: skip


@fuzz(60, st.sampled_from(JUNK), st.randoms())
def test_checkpoints_with_odd_entries(junk, rng):
    place = content = dict(good_checkpoint()[0])
    while isinstance(inner := place[key := rng.choice(sorted(place))], dict) and rng.random() < 0.7:
        place[key] = place = dict(inner)
    place[key] = junk
    try:
        checkpoint.check(content)
    except ValueError as error:
        assert len(str(error)) < 1000
    else:
        checkpoint.build_model(content)


@fuzz(12, st.integers(0, 1000), CHANGES)
def test_a_damaged_pack_is_made_again_or_whole(seed, changes):
    with tempfile.TemporaryDirectory() as name:
        source = write_gnt(Path(name, "1001.gnt"), 1001, "一十")
        pack = open_pack(source, 16, workers=1)
        wanted = len(pack), pack.classes, pack.writers
        files = sorted(path for path in pack.folder.iterdir() if "lock" not in path.name)
        path = files[seed % len(files)]
        path.write_bytes(change(path.read_bytes(), changes))
        pack = open_pack(source, 16, workers=1)
        assert (len(pack), pack.classes, pack.writers) == wanted
        assert pack.glyphs.shape[1:] == (16, 16)
