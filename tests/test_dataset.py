"""Packs of every kind of source, made again when the source changes; the Dataset made of them."""

import os
import pickle
import shutil
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CHARACTERS, KILLS, bitmap, file_limit, kill_at_random, write_gnt, write_tree
from torch.utils.data import DataLoader, Subset

import picture
from dataset import NO_LABEL, CharacterDataset, hold_out
from hwdb.characters import character_of, class_order
from jobs.files import only_one
from packing import open_pack, pack_folder, scan
from picture import find_proposals, read_picture, to_glyph

UNIX = pytest.mark.skipif(os.name == "nt", reason="file names of Unix")


def small_tree(root, characters="一十口", **options):
    return write_tree(root, range(1001, 1004), characters, **options)


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".png", pixels)[1].tofile(path)
    return path


def many(root: Path, count: int, name: str = "1001_{:05}.png") -> Path:
    """Write a tree with `count` copies of one image."""
    data = write_png(root / "U+4E00" / name.format(0), bitmap("一", 1001)).read_bytes()
    for i in range(1, count):
        (root / "U+4E00" / name.format(i)).write_bytes(data)
    return root


def written(source) -> int:
    """Return when the pack of a source was written."""
    return (pack_folder(source, 32) / "glyphs.bin").stat().st_mtime_ns


def test_a_pack_holds_every_glyph_with_label_and_writer(tmp_path):
    pack = open_pack(small_tree(tmp_path / "train"), 32, workers=1)
    assert len(pack) == 18 and pack.classes == sorted("一十口", key=class_order)
    assert pack.writers == ["1001", "1002", "1003"]
    for i, name in enumerate(pack.names):
        folder, file = name.split("/")
        writer, sample = file.removesuffix(".png").split("_")
        assert pack.classes[pack.labels[i]] == chr(int(folder[2:], 16))
        assert pack.writers[pack.writer_ids[i]] == writer
        ink = bitmap(chr(int(folder[2:], 16)), int(writer), int(sample))
        assert np.array_equal(pack.proposals(i).glyphs, find_proposals(ink, 32).glyphs)


def test_all_proposals_of_a_picture_are_packed(tmp_path):
    ink = np.pad(bitmap("永", 3), 20, constant_values=255)
    lined = ink.copy()
    lined[[8, -8]] = 0  # ruled lines, which one proposal leaves out
    for name, pixels in (("a.png", ink), ("b.png", lined)):
        write_png(tmp_path / "t" / "永" / name, pixels)
    pack = open_pack(tmp_path / "t", 32, workers=1)
    dataset = CharacterDataset(pack, size=32)
    assert len(dataset) == 2 and len(pack.glyphs) > 2
    found = dataset.proposals(np.array([1, 0]))
    for packed, pixels in zip(found, (lined, ink), strict=True):
        expected = find_proposals(pixels, 32)
        assert np.array_equal(packed.glyphs, expected.glyphs)
        assert np.array_equal(packed.priors, expected.priors)
    assert np.array_equal(dataset.fetch(np.array([1]))[0][0], to_glyph(lined, 32))


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("U+4E09", "三"), ("u+4e09", "三"), ("0x4E09", "三"), ("U+4E09 三", "三"), ("三", "三"),
        ("=\u0338", "≠"), ("\udcd2\udcbb", "一"), ("U+20000", "\U00020000"), ("A", "A"),
        ("class 12", "class 12"), ("U+4E09 四", "U+4E09 四"), ("U+110000", "U+110000"),
        ("两个", "两个"),
    ],
)  # fmt: skip
def test_names_of_class_folders(folder, label):
    assert character_of(folder) == label


@UNIX
def test_class_folders_that_are_not_utf_8(tmp_path, capsys):
    tree = small_tree(tmp_path / "t", name=lambda c: os.fsdecode(c.encode("gbk")))
    assert open_pack(tree, 32, workers=1).classes == ["口", "十", "一"]  # 一 and 十 are also UTF-8
    assert "class folders named in GBK: \\udcbf\\udcda is 口" in capsys.readouterr().err
    for name in (os.fsdecode(b"\x80"), "U+D800"):
        other = small_tree(tmp_path / name, "一", name=lambda c, name=name: name)
        with pytest.raises(ValueError, match="neither UTF-8 nor a character in GBK.*rename"):
            open_pack(other, 32, workers=1)


def test_file_formats(tmp_path, capsys):
    folder = tmp_path / "别人的 数据" / "永"
    folder.mkdir(parents=True)
    ink = bitmap("永", 3)
    for name in ("a.png", "d.jpg", "F.JPEG", "b.bmp", "c.tiff", "长文件名" * 10 + ".png"):
        cv2.imencode(os.path.splitext(name)[1].lower(), ink)[1].tofile(folder / name)
    (folder / "notes.txt").write_text("no image")
    write_png(folder.parent / "loose.png", ink)
    pack = open_pack(folder.parent, 32, workers=1)
    assert len(pack) == 6 and not pack.problems and pack.writers == []
    error = capsys.readouterr().err
    assert "2 files skipped" in error and "loose.png" in error and "永/notes.txt" in error


def test_files_of_the_system_are_skipped_without_a_notice(tmp_path, capsys):
    tree = small_tree(tmp_path / "t")
    names = [".ipynb_checkpoints/a.png", "__MACOSX/a.png", "U+4E00/.more/a.png", "1.pack80/a.x"]
    names += ["U+4E00/._1001_00000.png", "U+4E00/Thumbs.db", "desktop.ini", "synthesis.json"]
    for name in names:
        write_png(tree / name, bitmap("一", 3))
    pack = open_pack(tree, 32, workers=1)
    assert len(pack) == 18 and len(pack.classes) == 3 and not capsys.readouterr().err


def test_unreadable_images_are_named_and_counted(tmp_path, capsys):
    tree = small_tree(tmp_path / "train")
    for i in range(11):
        (tree / "U+4E00" / f"bad{i:02}.png").write_bytes(b"no image")
    write_png(tree / "U+4E00" / "blank.png", np.full((30, 30), 255, np.uint8))
    pack = open_pack(tree, 32, workers=1)
    assert len(pack) == 18 and len(pack.problems) == 12 and pack.refused == {"一": 12}
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"unreadable: {tree / 'U+4E00' / 'bad00.png'}: ")
    assert lines[0].count("bad00.png") == 1  # the file is named once
    assert lines[10] == f"unreadable: 12 in all, see {pack.folder}/pack.json"


def test_gnt_files_are_a_source(tmp_path):
    write_gnt(tmp_path / "set" / "1001-c.gnt", 1001)
    write_gnt(tmp_path / "set" / "1001-s.gnt", 1001, "一")
    damaged = write_gnt(tmp_path / "set" / "1002-c.gnt", 1002)
    damaged.write_bytes(damaged.read_bytes()[:-5])
    pack = open_pack(tmp_path / "set", 32, workers=1)
    assert len(pack) == 2 * len(CHARACTERS) and pack.writers == ["1001", "1002"]
    assert len(pack.problems) == 1 and "1002-c.gnt: byte" in pack.problems[0]
    assert pack.refused == {"": 1} and set(pack.classes) == set(CHARACTERS)
    assert [pack.classes[i] for i in pack.labels[:6]] == list(CHARACTERS)
    file = tmp_path / "set" / "1001-c.gnt"
    single = open_pack(file, 32)
    assert CharacterDataset(single, size=32).name(0) == f"{file}#0"
    assert np.array_equal(single.first(np.arange(6)), pack.first(np.arange(6)))


@UNIX
def test_odd_files_are_named_and_never_waited_for(tmp_path, capsys):
    tree = small_tree(tmp_path / "t", "一")
    folder = next(tree.iterdir())
    names = ["a\nb.png", "c\u2028d.png", "e\x85f.png", os.fsdecode(b"g\xffh.png")]
    for name in names:
        write_png(folder / "more" / name, bitmap("一", 7))
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "round").symlink_to(tree)
    (tree / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(tree / "pipe.gnt")
    dataset = CharacterDataset(tree, size=32, workers=1)
    found = [Path(file).name for file, _ in dataset.samples]
    assert len(found) == 10 and set(names) < set(found)
    error = capsys.readouterr().err
    assert "5 files skipped" in error and all(name in error for name in ("pipe.gnt", "round"))


def test_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="process_gnt"):
        open_pack(tmp_path / "none")
    write_png(tmp_path / "empty" / "loose.png", bitmap("一", 7))
    with pytest.raises(ValueError, match="holds no samples.*process_gnt"):
        open_pack(tmp_path / "empty")
    small_tree(tmp_path / "data" / "train")
    small_tree(tmp_path / "data" / "test")
    with pytest.raises(ValueError, match="data: test, train are data sets, not classes"):
        open_pack(tmp_path / "data")
    (tmp_path / "t" / "一").mkdir(parents=True)
    (tmp_path / "t" / "一" / "1.png").write_text("no image")
    with pytest.raises(ValueError, match="none of its 1 samples could be read"):
        open_pack(tmp_path / "t", 32, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "t"]


def swap(tree):
    """Exchange two images: the same names and sizes, other contents."""
    one, other = tree / "U+5341" / "1001_00000.bmp", tree / "U+5341" / "1002_00000.bmp"
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


@pytest.mark.parametrize(
    "change",
    [
        swap,
        lambda tree: write_png(tree / "U+5341" / "1001_00000.png", bitmap("十", 99)),
        lambda tree: (tree / "U+5341" / "1001_00000.png").unlink(),
        lambda tree: write_png(tree / "U+4EBA" / "1009_00000.png", bitmap("人", 1009)),
        lambda tree: (tree / "U+4E00").rename(tree / "U+4E8C"),
    ],
)
def test_a_changed_tree_is_packed_again(tmp_path, change, capsys):
    tree = small_tree(tmp_path / "train")
    for writer in (1001, 1002):
        pixels = cv2.resize(bitmap("十", writer), (64, 64))  # files of one size
        cv2.imencode(".bmp", pixels)[1].tofile(tree / "U+5341" / f"{writer}_00000.bmp")
    before = open_pack(tree, 32, workers=1).fingerprint
    change(tree)
    pack = open_pack(tree, 32, workers=1)
    assert "have changed, packing again" in capsys.readouterr().err and pack.fingerprint != before
    files = scan(tree).entries
    assert pack.names == [entry.path for entry in files]
    for i, entry in enumerate(files):
        assert pack.classes[pack.labels[i]] == entry.label
        expected = find_proposals(read_picture(tree / entry.path), 32).glyphs
        assert np.array_equal(pack.proposals(i).glyphs, expected)


def test_an_unchanged_tree_has_one_fingerprint_and_is_packed_once(tmp_path, capsys):
    tree = small_tree(tmp_path / "a" / "train")
    fingerprint = open_pack(tree, 32, workers=1).fingerprint
    stamp = written(tree)
    open_pack(tree, 32, workers=1)
    assert written(tree) == stamp and not capsys.readouterr().err
    shutil.copytree(tree, tmp_path / "b" / "train", copy_function=shutil.copyfile)  # other times
    assert open_pack(tmp_path / "b" / "train", 32, workers=1).fingerprint == fingerprint


def test_another_preprocessing_packs_again(tmp_path, monkeypatch, capsys):
    tree = small_tree(tmp_path / "train")
    open_pack(tree, 32, workers=1)
    name = next(iter(picture.SETTINGS))
    monkeypatch.setitem(picture.SETTINGS, name, picture.SETTINGS[name] + 1)
    for expected in ("preprocessing have changed", ""):  # once
        open_pack(tree, 32, workers=1)
        assert expected in (error := capsys.readouterr().err) and bool(error) == bool(expected)


def contents(folder):
    files = (path for path in folder.iterdir() if not path.name.startswith(".lock"))
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("file", ["pack.json", "glyphs.bin", "samples.npz"])
def test_a_damaged_pack_is_made_again(tmp_path, file):
    tree = small_tree(tmp_path / "train")
    folder = open_pack(tree, 32, workers=1).folder
    whole = contents(folder)
    (folder / ".glyphs.1a2b.part.bin").write_bytes(b"of a packer that was killed")
    for data in (b"", whole[file][:-9], whole[file] + b"}"):
        (folder / file).write_bytes(data)
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
    with only_one(pack_folder(tree, 32)), pytest.raises(ValueError, match="is writing here"):
        open_pack(tree, 32, workers=1)
    assert len(open_pack(tree, 32, workers=1)) == 18


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    tree = small_tree(tmp_path / "t")
    with file_limit(4096), pytest.raises(OSError):
        open_pack(tree, 64, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_packs_lie_beside_their_source_or_where_one_may_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pack_folder("a/../t/", 48) == tmp_path / "t.pack48"
    with monkeypatch.context() as windows:  # which finds out when it writes
        windows.setattr(sys, "platform", "win32")
        windows.setattr(Path, "mkdir", lambda path: os.mkdir("none/none"))
        assert pack_folder("t", 48).parent == Path("data") / "packs"
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    one, other = (pack_folder(tmp_path / name / "t", 48) for name in "ab")
    assert one.parent == other.parent == Path("data") / "packs" and one != other


def test_workers_pack_the_same_as_one_process(tmp_path):
    tree = many(tmp_path / "t", 600)
    (tree / "U+4E00" / "1001_00300.png").write_bytes(b"no image")
    one = contents(open_pack(tree, 32, workers=1).folder)
    shutil.rmtree(pack_folder(tree, 32))
    pack = open_pack(tree, 32, workers=2)
    assert contents(pack.folder) == one and len(pack) == 599 and len(pack.problems) == 1


def test_a_killed_worker_is_reported_in_a_sentence(tmp_path):
    tree = many(tmp_path / "t", 3000)

    def kill_one():
        while not active_children():
            time.sleep(0.01)
        active_children()[0].kill()

    threading.Thread(target=kill_one, daemon=True).start()
    with pytest.raises(OSError, match=r"worker process was killed.*fewer --workers"):
        open_pack(tree, 64, workers=2)
    assert not pack_folder(tree, 64).exists()


def test_it_is_like_an_image_folder(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    tree = small_tree(tmp_path / "train", "一丁七")
    theirs = datasets.ImageFolder(str(tree))  # its classes are in the order of their code points
    ours = CharacterDataset(tree, size=32, classes="一丁七")
    assert len(ours) == len(theirs)
    assert ours.classes == [character_of(name) for name in theirs.classes]
    assert list(ours.class_to_idx.values()) == list(theirs.class_to_idx.values())
    assert ours.samples == [(str(Path(path)), label) for path, label in theirs.samples]
    assert ours.targets.tolist() == theirs.targets
    image, label = ours[7]
    assert image.shape == (1, 32, 32) and image.dtype == torch.float32 and label == theirs[7][1]
    expected = to_glyph(read_picture(ours.samples[7][0]), 32)
    assert np.array_equal(image[0], np.float32(expected) / 255)


def test_a_data_loader_reads_whole_batches(tmp_path, monkeypatch):
    dataset = CharacterDataset(small_tree(tmp_path / "train"), size=32, workers=1)
    items = [dataset[i] for i in range(len(dataset))]
    monkeypatch.delattr(CharacterDataset, "__getitem__")  # what reads one by one fails
    pickled = pickle.dumps(dataset)  # as for workers
    assert len(pickled) < 10_000  # without the glyphs
    for part in (dataset, Subset(dataset, range(18)), pickle.loads(pickled)):
        images, labels = map(torch.cat, zip(*DataLoader(part, 8), strict=True))
        assert labels.dtype == torch.int64 and labels.tolist() == [label for _, label in items]
        assert torch.equal(images, torch.stack([image for image, _ in items]))
    shuffled = torch.cat([labels for _, labels in DataLoader(dataset, 8, shuffle=True)])
    assert sorted(shuffled.tolist()) == sorted(labels.tolist())
    changed = CharacterDataset(dataset.packs, size=32, transform=lambda image: 1 - image)
    assert torch.equal(next(iter(DataLoader(changed, 18)))[0], 1 - images)


def test_sources_of_several_kinds(tmp_path):
    a, b, free, none = (small_tree(tmp_path / name, name) for name in ("一十", "十口", "人", "大"))
    given = {"size": 32, "classes": ["十", "口", "一"]}
    dataset = CharacterDataset([a, b], unlabelled=free, no_character=[none], **given)
    indices = np.random.default_rng(0).permutation(len(dataset))
    glyphs, labels = dataset.fetch(indices)
    for glyph, label, index in zip(glyphs, labels.tolist(), indices, strict=True):
        folder = Path(dataset.name(index)).parent
        assert np.array_equal(glyph, to_glyph(read_picture(dataset.name(index)), 32))
        assert (folder.parent == none) == dataset.no_character[index]
        if folder.parent in (a, b):
            assert dataset.classes[label] == character_of(folder.name)
        else:
            assert label == NO_LABEL
        assert dataset.writer_names[dataset.writers[index]] == Path(dataset.name(index)).name[:4]
    dataset.to(torch.device("meta"), 2 * len(dataset) * 32 * 32)  # too large: it stays
    assert torch.equal(dataset.fetch(indices)[0], glyphs)
    dataset.to(torch.device("cpu"), 2 * len(dataset) * 32 * 32 + 1)
    shutil.rmtree(tmp_path / "一十.pack32")
    assert torch.equal(dataset.fetch(indices)[0], glyphs)


def test_classes_that_the_labels_do_not_include(tmp_path):
    tree = small_tree(tmp_path / "t")
    with pytest.raises(ValueError, match="1 of its classes are not among the 2 of the model: 口"):
        CharacterDataset(tree, size=32, classes=["一", "十"])
    dataset = CharacterDataset(tree, size=32, classes=["一", "十"], skip_unknown=True)
    assert sorted(dataset.targets) == [0] * 6 + [1] * 6
    assert {dataset.classes[label] for label in dataset.targets} == {"一", "十"}


def test_writers_are_held_out(tmp_path):
    a = write_tree(tmp_path / "a", range(1001, 1021), "一", 1)
    b = write_tree(tmp_path / "b", range(1001, 1021), "十", 1)  # by the same writers
    dataset = CharacterDataset([a, b], unlabelled=small_tree(tmp_path / "c"), size=32, workers=1)
    for fraction, count in ((0.1, 2), (0.02, 1), (0.5, 10), (0.0, 0)):
        train, validation, how = hold_out(dataset, fraction, seed=3)
        assert len(train) + len(validation) == 40 and (dataset.targets[train] != NO_LABEL).all()
        held = set(dataset.writers[validation])
        assert len(held) == count and not held & set(dataset.writers[train])
        assert np.array_equal(hold_out(dataset, fraction, seed=3)[1], validation)
        if count == 0:
            continue
        people = f"{count} {'writer' if count == 1 else 'writers'}"
        assert how == "held-out writers"
        assert dataset.describe(validation) == f"{2 * count} samples of 2 classes by {people}"
        assert not np.array_equal(hold_out(dataset, fraction, seed=4)[1], validation)


def test_samples_are_held_out_where_writers_are_unknown(tmp_path):
    one = write_tree(tmp_path / "one", range(1001, 1002), samples=4)
    _, validation, how = hold_out(CharacterDataset(one, size=32), 0.25, seed=0)
    assert len(validation) == 6 and how.startswith("6 drawn by sample, as")
    tree = small_tree(many(tmp_path / "t", 20, "scan{}.png"), samples=1)
    dataset = CharacterDataset(tree, size=32)
    _, validation, how = hold_out(dataset, 0.2, seed=0)
    assert (dataset.writers[validation] < 0).sum() == 4 and len(validation) == 7
    assert how == "4 drawn by sample, as writers are unknown or too few"
    assert hold_out(dataset, 0.01, seed=0)[2] == "held-out writers"  # of 20 samples none


def test_a_class_is_never_held_out_whole(tmp_path):
    named = small_tree(tmp_path / "named")  # file names begin with the class
    for number, path in enumerate(sorted(named.glob("*/*"))):
        path.rename(path.with_name(f"{character_of(path.parent.name)}_{number:05}.png"))
    trees = [write_tree(tmp_path / c, range(1, n), c + "大", 4) for c, n in (("人", 2), ("日", 4))]
    dataset = CharacterDataset([named, *trees], size=32, workers=1)
    assert (dataset.writers[dataset.sources == 0] < 0).all()
    for seed in range(9):
        train = hold_out(dataset, 0.25, seed)[0]
        assert len(set(dataset.targets[train])) == len(dataset.classes) == 6
    single = CharacterDataset(write_tree(tmp_path / "single", [1], "人大日", 1), size=32)
    assert len(hold_out(single, 0.5, 0)[0]) == len(single) == 3
