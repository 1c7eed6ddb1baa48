"""Packs: every kind of source, every picture accounted for, rebuilt when the source changes."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import (
    CHARACTERS,
    KILLS,
    bitmap,
    file_limit,
    kill_at_random,
    write_gnt,
    write_tree,
)

import packing
from dataset import CharacterDataset, epoch_order, hold_out
from hwdb.characters import LEVEL1
from jobs.files import only_one
from packing import (
    class_order,
    open_pack,
    pack_folder,
    stream_glyphs,
)
from picture import to_glyph
from synthesis.stream import Handwriting, SyntheticSet

CPU = torch.device("cpu")


def small_tree(root, characters="一十口", **options):
    return write_tree(root, range(1001, 1004), characters, **options)


def test_pack_holds_every_glyph_with_label_and_writer(tmp_path):
    pack = open_pack(small_tree(tmp_path / "train"), 32, workers=1)
    assert len(pack) == 18 and pack.classes == sorted("一十口", key=class_order)
    assert pack.writers == ["1001", "1002", "1003"]
    for i, name in enumerate(pack.names):
        folder, file = name.split("/")
        character = chr(int(folder[2:], 16))
        writer, sample = file.removesuffix(".png").split("_")
        assert pack.classes[pack.labels[i]] == character
        assert pack.writers[pack.writer_ids[i]] == writer
        expected = to_glyph(bitmap(character, int(writer), int(sample)), 32)
        assert np.array_equal(pack.glyphs[i], expected)


def test_class_order_is_gb_order():
    assert "".join(sorted(LEVEL1[::-1], key=class_order)) == LEVEL1
    assert sorted(["词语", "口", "A"], key=class_order) == ["A", "口", "词语"]
    odd = ["\udc80", "\udc81", "口", "a\udc7f", "a\udc80"]  # some names are not UTF-8
    assert sorted(odd[::-1], key=class_order) == odd


@pytest.mark.skipif(os.name == "nt", reason="file names of Unix")
def test_folders_whose_names_are_not_utf_8(tmp_path):
    pack = open_pack(small_tree(tmp_path / "t", "一", name=lambda c: os.fsdecode(b"\x80")), 32)
    assert pack.classes == ["\udc80"] and len(pack) == 6


@pytest.mark.parametrize("name", [str, lambda c: f"class {ord(c)}"])
def test_folders_of_other_names(tmp_path, name):
    pack = open_pack(small_tree(tmp_path / "别人的数据", name=name), 32, workers=1)
    assert set(pack.classes) == {name(c) for c in "一十口"}


def test_file_kinds_and_channels(tmp_path, capsys):
    folder = tmp_path / "t" / "永"
    folder.mkdir(parents=True)
    ink = bitmap("永", 3)
    alpha = np.zeros((*ink.shape, 4), np.uint8)
    alpha[..., 3] = 255 - ink
    files = {
        "a.png": ink,
        "b.bmp": cv2.cvtColor(ink, cv2.COLOR_GRAY2BGR),
        "c.tiff": ink.astype(np.uint16) * 257,
        "d.jpg": ink,
        "e.png": alpha,
        "F.JPEG": ink,
        "很长的文件名" * 10 + ".png": ink,
    }
    for name, picture in files.items():
        cv2.imencode(os.path.splitext(name)[1].lower(), picture)[1].tofile(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".DS_Store").write_text("")
    cv2.imencode(".png", ink)[1].tofile(tmp_path / "t" / "loose.png")
    pack = open_pack(tmp_path / "t", 32, workers=1)
    assert len(pack) == len(files) and not pack.problems and pack.writers == []
    said = capsys.readouterr().err
    assert "2 files are left out" in said and "loose.png" in said
    reference = pack.glyphs[0].astype(int)
    # A tight JPEG is no clean scan: with its noise some of the ink goes (2 to 3 points of top-1).
    assert all(np.corrcoef(glyph.ravel(), reference.ravel())[0, 1] > 0.6 for glyph in pack.glyphs)


def test_palette_png(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "t" / "永").mkdir(parents=True)
    ink = bitmap("永", 3)
    pillow.fromarray(ink).convert("P").save(tmp_path / "t" / "永" / "p.png")
    pack = open_pack(tmp_path / "t", 32, workers=1)
    assert np.abs(pack.glyphs[0].astype(int) - to_glyph(ink, 32)).mean() < 6


def test_unreadable_pictures_are_named_and_counted(tmp_path, capsys):
    tree = small_tree(tmp_path / "train")
    (tree / "U+4E00" / "broken.png").write_bytes(b"not a picture")
    cv2.imencode(".png", np.full((30, 30), 255, np.uint8))[1].tofile(tree / "U+4E00" / "blank.png")
    pack = open_pack(tree, 32, workers=1)
    assert len(pack) == 18 and len(pack.problems) == 2 and pack.refused == {"一": 2}
    said = capsys.readouterr().err
    assert "broken.png" in said and "blank.png" in said and "2 unreadable" in pack.describe()


def test_gnt_files_are_a_source(tmp_path):
    write_gnt(tmp_path / "set" / "1001-c.gnt", 1001)
    damaged = write_gnt(tmp_path / "set" / "1002-c.gnt", 1002)
    damaged.write_bytes(damaged.read_bytes()[:-5])
    pack = open_pack(tmp_path / "set", 32, workers=1)
    assert len(pack) == 2 * len(CHARACTERS) - 1 and pack.writers == ["1001", "1002"]
    assert len(pack.problems) == 1 and "1002-c.gnt: byte" in pack.problems[0]
    assert pack.refused == {"": 1} and set(pack.classes) == set(CHARACTERS)
    assert [pack.classes[i] for i in pack.labels[:6]] == list(CHARACTERS)
    single = open_pack(tmp_path / "set" / "1001-c.gnt", 32)
    assert CharacterDataset(single, size=32).name(0) == f"{tmp_path / 'set' / '1001-c.gnt'}#0"
    assert np.array_equal(single.glyphs, pack.glyphs[: len(CHARACTERS)])


def test_parallel_is_the_same_as_serial(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 7)
    tree = small_tree(tmp_path / "train")
    entries, _ = packing.scan(tree)
    one = list(stream_glyphs(tree, entries, 32, workers=1))
    for _ in range(2):  # as for two sources
        two = list(stream_glyphs(tree, entries, 32, workers=2))
        assert [c.names for c in one] == [c.names for c in two] and len(one) > 2
        assert all(np.array_equal(a.glyphs, b.glyphs) for a, b in zip(one, two, strict=True))


def test_changed_tree_is_packed_anew_and_an_unchanged_one_is_not(tmp_path, capsys):
    tree = small_tree(tmp_path / "train")
    open_pack(tree, 32, workers=1)
    stamp = (pack_folder(tree, 32) / "glyphs.bin").stat().st_mtime_ns
    open_pack(tree, 32, workers=1)
    assert (pack_folder(tree, 32) / "glyphs.bin").stat().st_mtime_ns == stamp
    changed = tree / "U+5341" / "1001_00000.png"
    cv2.imencode(".png", bitmap("十", 99))[1].tofile(changed)
    pack = open_pack(tree, 32, workers=1)
    assert "has changed" in capsys.readouterr().err
    index = pack.names.index("U+5341/1001_00000.png")
    assert np.array_equal(pack.glyphs[index], to_glyph(bitmap("十", 99), 32))
    changed.unlink()
    assert len(open_pack(tree, 32, workers=1)) == 17


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".lock")
    }


def damage(folder):
    """Yield after each of several ways in which a pack can be less than whole."""
    whole = contents(folder)
    marks = json.loads(whole["pack.json"])
    labels = np.load(folder / "labels.npy")
    for name, data in [
        ("pack.json", b""),
        ("pack.json", b"[1, 2]"),
        *(("pack.json", json.dumps(marks | {key: -7}).encode()) for key in marks),
        *(("pack.json", json.dumps({**marks, key: None}).encode()) for key in marks),
        ("glyphs.bin", whole["glyphs.bin"][:-1]),
        ("labels.npy", b"PK\x03\x04 no array"),
        ("labels.npy", whole["labels.npy"][:-4]),
        ("labels.npy", labels + 1),
        ("labels.npy", labels - 1),
        ("labels.npy", labels.astype(np.int64)),
        ("writers.npy", labels + 1),
        ("writers.npy", labels - 2),
    ]:
        if isinstance(data, np.ndarray):
            np.save(folder / name, data)
        else:
            (folder / name).write_bytes(data)
        yield name


def test_pack_that_is_not_whole_is_made_again(tmp_path):
    tree = small_tree(tmp_path / "train")
    folder = open_pack(tree, 32, workers=1).folder
    whole = contents(folder)
    (folder / "teacher-1").mkdir()  # labels of another order of glyphs
    (folder / ".glyphs.1a2b.part.bin").write_bytes(b"of a packer that was killed")
    (folder / "pack.json").unlink()
    open_pack(tree, 32, workers=1)
    assert contents(folder) == whole
    for _ in damage(folder):
        open_pack(tree, 32, workers=1)
        assert contents(folder) == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_packer_loses_nothing(tmp_path):
    tree = small_tree(tmp_path / "train")
    folder = open_pack(tree, 64, workers=1).folder
    whole = contents(folder)
    shutil.rmtree(folder)

    def check():
        open_pack(tree, 64, workers=1)
        assert contents(folder) == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train.pack64"]
        shutil.rmtree(folder)

    kill_at_random(lambda: open_pack(tree, 64, workers=1), KILLS, check)


def test_one_process_packs_at_a_time(tmp_path):
    tree = small_tree(tmp_path / "train")
    with (
        only_one(pack_folder(tree, 32), "another"),
        pytest.raises(ValueError, match="another .process"),
    ):
        open_pack(tree, 32, workers=1)
    assert len(open_pack(tree, 32, workers=1)) == 18


@pytest.mark.skipif(os.name == "nt", reason="file names of Unix")
def test_odd_files_are_named_and_never_waited_for(tmp_path, capsys):
    tree = small_tree(tmp_path / "t", "一")
    folder = next(tree.iterdir())
    names = ["a\nb.png", "c\u2028d.png", "e\x85f.png", os.fsdecode(b"g\xffh.png")]
    for name in names:
        cv2.imencode(".png", bitmap("一", 7))[1].tofile(folder / name)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "round").symlink_to(tree)
    (tree / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(tree / "pipe.gnt")
    pack = open_pack(tree, 32, workers=1)
    assert len(pack) == 10 and len(pack.names) == 10
    glyphs = CharacterDataset(pack, size=32)
    expected = to_glyph(bitmap("一", 7), 32)
    for name in names:
        at = pack.names.index(f"{folder.name}/{name}")
        assert np.array_equal(pack.glyphs[at], expected) and glyphs.name(at).endswith(name)
    said = capsys.readouterr().err
    assert "5 files are left out" in said
    for name in ("gone.png", "pipe.png", "gone", "pipe.gnt", "round"):
        assert name in said


def test_a_full_disk_is_said_with_the_file_and_leaves_nothing(tmp_path):
    tree = small_tree(tmp_path / "t")
    with file_limit(4096), pytest.raises(OSError) as caught:
        open_pack(tree, 64, workers=1)
    assert caught.value.filename.endswith("t.pack64")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_the_gpu_gets_the_glyphs_if_they_fill_less_than_half_of_it(tmp_path):
    packs = [open_pack(small_tree(tmp_path / name, name), 32, workers=1) for name in "一十"]
    glyphs = CharacterDataset(packs, size=32, classes="一十")
    indices = np.random.default_rng(0).permutation(len(glyphs))
    before = [tensor.clone() for tensor in glyphs.fetch(indices)]
    bytes_ = len(glyphs) * 32 * 32
    glyphs.to(torch.device("meta"), 2 * bytes_)
    assert glyphs.fetch(indices)[0].device.type == "cpu"  # they stay
    glyphs.to(torch.device("cpu"), 2 * bytes_ + 1)
    for pack in packs:
        object.__setattr__(pack, "glyphs", None)  # not read any more
    for mine, other in zip(glyphs.fetch(indices), before, strict=True):
        assert torch.equal(mine, other) and mine.dtype == other.dtype


def test_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="process_gnt"):
        open_pack(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither class folders"):
        open_pack(tmp_path / "empty")


def test_fetch_over_several_packs_and_unknown_classes(tmp_path):
    packs = [
        open_pack(small_tree(tmp_path / "a", "一十"), 32, workers=1),
        open_pack(small_tree(tmp_path / "b", "十口"), 32, workers=1),
    ]
    glyphs = CharacterDataset(packs, size=32, classes=["十", "口", "一"])
    indices = np.random.default_rng(0).permutation(len(glyphs))
    batch, labels = glyphs.fetch(indices)
    for row, label, index in zip(batch.numpy(), labels.tolist(), indices, strict=True):
        pack, at = packs[glyphs.sources[index]], glyphs.rows[index]
        assert np.array_equal(row, pack.glyphs[at])
        assert glyphs.classes[label] == pack.classes[pack.labels[at]]
    with pytest.raises(ValueError, match="口"):
        CharacterDataset(packs, size=32, classes=["一", "十"])
    partly = CharacterDataset(packs, size=32, classes=["一", "十"], skip_unknown=True)
    assert len(partly) == 18 and (partly.targets >= 0).all()
    assert glyphs.name(len(packs[0])).startswith(str(tmp_path / "b"))


def test_held_out_writers(tmp_path):
    pack = open_pack(write_tree(tmp_path / "t", range(1001, 1021), "一十"), 32, workers=1)
    glyphs = CharacterDataset(pack, size=32)
    train, validation, said = hold_out(glyphs, 0.1, seed=3)
    assert not set(glyphs.writers[train]) & set(glyphs.writers[validation])
    assert len(set(glyphs.writers[validation])) == 2 and "2 held-out writers" in said
    assert len(train) + len(validation) == len(glyphs)
    assert np.array_equal(hold_out(glyphs, 0.1, seed=3)[1], validation)
    assert not np.array_equal(hold_out(glyphs, 0.1, seed=4)[1], validation)


def test_a_writer_in_two_sources_is_one(tmp_path):
    packs = [
        open_pack(write_tree(tmp_path / name, range(1001, 1011), characters), 32, workers=1)
        for name, characters in (("a", "一十"), ("b", "口人"))
    ]
    glyphs = CharacterDataset(packs, size=32, classes="一十口人")
    train, validation, said = hold_out(glyphs, 0.2, seed=0)
    assert "2 held-out writers" in said and len(validation) == 2 * 4 * 2
    assert not set(glyphs.writers[train]) & set(glyphs.writers[validation])


def test_pictures_in_folders_of_a_class_folder(tmp_path):
    tree = small_tree(tmp_path / "t", "一十")
    file = next(tree.rglob("*.png"))
    (file.parent / "more" / "deep").mkdir(parents=True)
    file.rename(file.parent / "more" / "deep" / file.name)
    pack = open_pack(tree, 32, workers=1)
    assert len(pack) == 12 and sorted(pack.classes) == sorted("一十")
    assert sum("/more/deep/" in name for name in pack.names) == 1


def test_a_strip_is_named_and_the_others_are_packed(tmp_path):
    tree = small_tree(tmp_path / "t", "一")
    strip = np.random.default_rng(0).integers(180, 250, (2, 9000)).astype(np.uint8)
    cv2.imwrite(str(next(tree.iterdir()) / "strip.png"), strip)
    pack = open_pack(tree, 32, workers=1)
    assert len(pack) + len(pack.problems) == 7 and len(pack) >= 6
    assert not list(tmp_path.glob("*.part"))


def test_a_failed_pack_leaves_nothing(tmp_path):
    (tmp_path / "t" / "一").mkdir(parents=True)
    (tmp_path / "t" / "一" / "1.png").write_text("no picture")
    with pytest.raises(ValueError, match="could be read"):
        open_pack(tmp_path / "t", 32, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_without_writers_it_splits_by_sample_and_says_so(tmp_path):
    tree = small_tree(tmp_path / "t")
    for file in list(tree.rglob("*.png")):
        file.rename(file.with_name(f"scan-{file.name.replace('_', '-')}"))
    pack = open_pack(tree, 32, workers=1)
    _, validation, said = hold_out(CharacterDataset(pack, size=32), 0.2, seed=0)
    assert len(validation) == 4 and said == "4 of 18 samples of unknown writers, drawn by sample"


def test_epoch_order_depends_on_seed_and_epoch():
    assert sorted(epoch_order(50, 1, 2)) == list(range(50))
    assert np.array_equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    assert not np.array_equal(epoch_order(50, 1, 2), epoch_order(50, 1, 3))


def test_synthetic_stream_repeats_and_does_not_depend_on_workers():
    indices = np.arange(40)
    handwriting = Handwriting("一十口人", seed=1)
    drawn = [handwriting.draw(index) for index in indices]
    expected = np.stack([to_glyph(bitmap, 32) for bitmap, _ in drawn])
    stream = SyntheticSet("一十口人", 32, seed=1, workers=2)
    for chosen in ([indices], [indices[:15], indices[15:]]):
        glyphs, labels = map(np.concatenate, zip(*stream.batches(chosen), strict=True))
        assert np.array_equal(glyphs, expected)
        assert labels.tolist() == [label for _, label in drawn]


def files_of(root, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * len(path))


def test_a_source_is_listed_in_order(tmp_path):
    root = tmp_path / "s"
    files_of(root, "b/2.PNG", "b/10.png", "b/.hidden.png", "a/x.jpg", "a/z/y.jpeg", "a/note.md",
             "c.GNT", "d.gnt", "loose.png", "Thumbs.db", ".DS_Store", "a/desktop.ini")  # fmt: skip
    entries, others = packing.scan(root)
    assert [(entry.path, entry.folder, entry.size) for entry in entries] == [
        ("a/x.jpg", "a", 7), ("a/z/y.jpeg", "a", 10), ("b/.hidden.png", "b", 13),
        ("b/10.png", "b", 8), ("b/2.PNG", "b", 7), ("c.GNT", "", 5), ("d.gnt", "", 5),
    ]  # fmt: skip
    assert entries[0].mtime_ns == (root / "a" / "x.jpg").stat().st_mtime_ns
    assert others == ["a/note.md", "loose.png"]
    single = root / "d.gnt"
    assert packing.scan(single) == ([entries[-1]], []) and packing.scan(str(single))[0]
    with pytest.raises(FileNotFoundError, match="loose.png: no such folder"):
        packing.scan(root / "loose.png")
    (tmp_path / "none").mkdir()
    files_of(tmp_path / "none", "loose.png")
    with pytest.raises(ValueError, match="holds neither"):
        packing.scan(tmp_path / "none")


def test_a_fingerprint_tells_names_sizes_and_times():
    one = packing.Entry("a/x.png", "a", 5, 7)
    prints = {
        packing.fingerprint(entries)
        for entries in ([one], [one, one], [], [one._replace(path="b/x.png")],
                        [one._replace(size=6)], [one._replace(mtime_ns=8)])
    }  # fmt: skip
    assert len(prints) == 6 and len(min(prints)) == 64
    assert packing.fingerprint([one._replace(folder="b")]) in prints  # is in the path


def test_tasks_are_of_so_many_pictures_or_one_file(tmp_path, monkeypatch):
    tasks = []
    monkeypatch.setattr(packing, "_decode", lambda *given: tasks.append(given) or [])
    pictures = [packing.Entry(f"a/{i}.png", "a", 1, 1) for i in range(513)]
    file = packing.Entry("x.gnt", "", 1, 1)
    entries = [file, file, *pictures, file, pictures[0]]
    assert list(stream_glyphs(tmp_path, entries, 32, 3, workers=1)) == []
    assert [len(given[-1]) for given in tasks] == [1, 1, 256, 256, 1, 1, 1]
    assert [entry for given in tasks for entry in given[-1]] == entries
    assert tasks[0][:-1] == (str(tmp_path), 32, 3)


def test_a_pack_says_what_is_in_it(tmp_path, capsys):
    tree = small_tree(tmp_path / "t")
    for i in range(12):
        (tree / "U+4E00" / f"bad{i:02}.png").write_bytes(b"no picture")
    pack = open_pack(tree, 32, workers=1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 11 and said[0].startswith(f"unreadable: {tree / 'U+4E00' / 'bad00.png'}: ")
    assert said[0].count("bad00.png") == 1  # the file is named once
    assert said[10] == f"unreadable: 2 more, see {pack.folder / 'pack.json'}"
    assert pack.describe() == f"{tree}: 18 glyphs, 3 classes, 3 writers, 12 unreadable"
    assert pack.refused == {"一": 12}
    mark = json.loads((pack.folder / "pack.json").read_text(encoding="utf-8"))
    assert mark["count"] == 18 and mark["fingerprint"] == pack.fingerprint
    assert (pack.folder / "glyphs.bin").stat().st_size == 18 * 32 * 32
    plain = small_tree(tmp_path / "plain", name=lambda c: f"class {ord(c)}", samples=1)
    for file in list(plain.rglob("*.png")):
        file.rename(file.with_name(f"{file.stem.replace('_', '')}.png"))
    pack = open_pack(plain, 32, workers=1)
    assert pack.describe() == f"{plain}: 9 glyphs, 3 classes, no writers known"
    assert set(pack.writer_ids) == {-1} and not capsys.readouterr().err


def test_ten_unreadable_pictures_are_all_named(tmp_path, capsys):
    tree = small_tree(tmp_path / "t", "一")
    for i in range(10):
        (tree / "U+4E00" / f"bad{i}.png").write_bytes(b"no picture")
    open_pack(tree, 32, workers=1)
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_packs_lie_beside_their_source_or_where_one_may_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pack_folder("a/../t/", 48) == tmp_path / "t.pack48"
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    one, other = (pack_folder(tmp_path / name / "t", 48) for name in "ab")
    assert one.parent == other.parent == packing.CACHE and one != other
    assert one.name.startswith("t-") and one.name.endswith(".pack48") and len(one.name) == 17


def test_orders_of_an_epoch_are_shuffled_well():
    order = epoch_order(1000, 3, 4)
    assert order.dtype == np.int64 and abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert not np.array_equal(order, epoch_order(1000, 4, 3))
    assert len(epoch_order(0, 0, 0)) == 0
