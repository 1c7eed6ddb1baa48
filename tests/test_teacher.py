"""Teachers: what they expect, their labels beside the pack, and what is learned from them."""

import json
import os
import shutil
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import KILLS, bitmap, kill_at_random, write_gnt, write_tree

import checkpoint
from config import Config
from hwdb.characters import LEVEL1
from jobs.files import only_one
from model import mobilenet_v3, to_input
from packing import Entry, open_pack
from picture import to_glyph
from training.augment import Augmentation, draw_maps, warp
from training.teacher import (
    LiveTeacher,
    SoftLabels,
    Teacher,
    expectations,
    has_bfloat16,
    label_pack,
    labelled,
    load_teacher,
    logit_basis,
    make_predictor,
)

CPU = torch.device("cpu")
CLASSES = "一十口人"
SIDE = 16


@pytest.fixture
def pack(tmp_path):
    return open_pack(write_tree(tmp_path / "t", range(1001, 1004), "一十口", 1), 32, workers=1)


def write_onnx(path, classes: int = 4, metadata: dict | None = None, shape=(1, SIDE, SIDE)):
    """Write a linear teacher of (N,*shape) and return its weight and bias."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(classes, SIDE**2)) / SIDE).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["x"], ["flat"]),
            onnx.helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1),
        ],
        "teacher",
        [value("x", onnx.TensorProto.FLOAT, ["N", *shape])],
        [value("y", onnx.TensorProto.FLOAT, ["N", classes])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.helper.set_model_props(proto, metadata or {})
    onnx.save(proto, str(path))
    return weight, bias


def write_checkpoint(path):
    """Write a small teacher with random weights."""
    config = Config(width=0.25, head=16, size=32).to_dict()
    torch.manual_seed(0)
    architecture = {key: config[key] for key in checkpoint.ARCHITECTURE}
    model = mobilenet_v3(num_classes=4, **architecture)
    checkpoint.save(path, model.state_dict(), config, CLASSES, {}, 1)
    return path


def centred(logits):
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize(
    ("given", "metadata", "expected"),
    [
        ("", {}, (1.0, None, LEVEL1)),
        ("scale=200,margin=0", {}, (200.0, 0, LEVEL1)),
        ("classes=5", {"scale": "255", "margin": "3"}, (255.0, 3, LEVEL1[:5])),
        ("margin=1", {"margin": "3", "classes": json.dumps(CLASSES)}, (1.0, 1, CLASSES)),
        ("", {"classes": json.dumps(["甲", "乙丙"])}, (1.0, None, ["甲", "乙丙"])),
        ("classes=level1", {"classes": json.dumps("甲")}, (1.0, None, LEVEL1)),
    ],
)
def test_option_comes_before_metadata(given, metadata, expected):
    scale, margin, classes = expectations(given, metadata)
    assert (scale, margin, classes) == (*expected[:2], list(expected[2]))


@pytest.mark.parametrize(
    ("given", "metadata", "said"),
    [
        ("scale=x", {}, "no number"), ("margin=0.5", {}, "no number"), ("scale=0", {}, "above 0"),
        ("scale=inf", {}, "above 0"), ("margin=-1", {}, "or more"), ("size=3", {}, "size: exp"),
        ("200", {}, "200: expected"), ("classes=all", {}, "classes: expected level1"),
        ("classes=nowhere", {}, "classes nowhere: expected"), ("classes=99999", {}, "from 1 to"),
        ("", {"classes": "not JSON"}, "classes=FILE"), ("", {"classes": "5"}, "classes=FILE"),
        ("", {"classes": '"一一"'}, "classes=FILE"), ("", {"scale": "?"}, "no number"),
    ],
)  # fmt: skip
def test_errors_name_the_option(given, metadata, said):
    with pytest.raises(ValueError, match=said) as caught:
        expectations(given, metadata)
    assert "--teacher-input" in str(caught.value)


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE // 2), (1, "S", "S"), (SIDE, SIDE), (SIDE,)])
def test_an_onnx_teacher_takes_squares_of_a_known_side(tmp_path, shape):
    write_onnx(tmp_path / "t.onnx", metadata={"classes": json.dumps(CLASSES)}, shape=shape)
    with pytest.raises(ValueError, match="expected \\(N, 1, S, S\\)"):
        load_teacher(tmp_path / "t.onnx")


def test_labels_are_the_logits_of_an_onnx_teacher(tmp_path, pack):
    classes = {"classes": json.dumps(CLASSES)}
    weight, bias = write_onnx(tmp_path / "t.onnx", metadata=classes)
    teacher = load_teacher(tmp_path / "t.onnx", "scale=200,margin=2")
    assert (teacher.size, teacher.margin, teacher.scale) == (SIDE, 2, 200.0)
    folder = label_pack(pack, teacher, CPU, batch_size=4)
    soft = SoftLabels([folder], ["口", "人", "大", "一"], CPU)
    assert soft.columns.tolist() == [0, 1, 3]
    glyphs = []
    for name in pack.names:
        code, file = name.split("/")
        ink = bitmap(chr(int(code[2:], 16)), int(file.split("_")[0]), 0)
        glyphs.append(to_glyph(ink, SIDE, 2).reshape(-1) / 255.0 * 200)
    expected = centred((np.stack(glyphs) @ weight.T + bias)[:, [2, 3, 0]])
    order = np.array([7, 0, 3])
    got = centred(soft.fetch(order).logits.numpy())  # what is common to all classes is not kept
    assert np.abs(got - expected[order]).max() < 0.02 * np.abs(expected).max()


def test_other_expectations_are_other_labels(tmp_path, pack):
    write_onnx(tmp_path / "t.onnx")
    teachers = [
        load_teacher(tmp_path / "t.onnx", given)
        for given in ("classes=4", "classes=4,scale=2", "classes=4,margin=0", "classes=4,scale=1")
    ]
    assert len({teacher.digest for teacher in teachers}) == 3
    assert teachers[0].digest == teachers[3].digest
    file = tmp_path / "c.txt"
    file.write_text(CLASSES)
    assert load_teacher(tmp_path / "t.onnx", f"classes={file}").digest != teachers[0].digest


def test_logits_are_counted_behind_the_last_layer(tmp_path):
    onnx = pytest.importorskip("onnx")
    write_onnx(tmp_path / "t.onnx", 3)
    proto = onnx.load(str(tmp_path / "t.onnx"))
    proto.graph.node[-1].output[0] = "hidden"
    proto.graph.node.append(onnx.helper.make_node("Gemm", ["hidden", "v", "c"], ["y"]))
    for name, shape in (("v", (3, 4)), ("c", (4,))):
        values = np.ones(shape, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(proto, str(tmp_path / "t.onnx"))
    assert load_teacher(tmp_path / "t.onnx", "classes=4").classes == list(LEVEL1[:4])
    with pytest.raises(ValueError, match="4 logits, but 3 classes"):
        load_teacher(tmp_path / "t.onnx", "classes=3")


def test_teachers_that_cannot_be_read(tmp_path):
    write_onnx(tmp_path / "t.onnx")
    with pytest.raises(ValueError, match="4 logits, but 3755 classes.*--teacher-input classes"):
        load_teacher(tmp_path / "t.onnx")
    whole = (tmp_path / "t.onnx").read_bytes()
    for data in (b"", b"text", whole[:200]):
        (tmp_path / "bad.onnx").write_bytes(data)
        with pytest.raises(ValueError, match="bad.onnx: not a readable ONNX network"):
            load_teacher(tmp_path / "bad.onnx")
    with pytest.raises(FileNotFoundError, match="no such teacher"):
        load_teacher(tmp_path / "none.onnx")
    path = write_checkpoint(tmp_path / "t.pt")
    with pytest.raises(ValueError, match="is for ONNX files"):
        load_teacher(path, "scale=2")


def test_labels_are_made_once_and_finished_where_they_broke_off(tmp_path):
    for writer in (1001, 1002, 1003):
        write_gnt(tmp_path / "g" / f"{writer}-c.gnt", writer, "一十口")
    teacher = load_teacher(write_checkpoint(tmp_path / "t.pt"))
    for pack in (
        open_pack(tmp_path / "g", 32, workers=1),
        open_pack(write_tree(tmp_path / "t", range(1001, 1004), "一十口", 1), 32, workers=1),
    ):
        folder = label_pack(pack, teacher, CPU, batch_size=4)
        file = folder / "labels.bin"
        whole, stamp = file.read_bytes(), file.stat().st_mtime_ns
        assert label_pack(pack, teacher, CPU, batch_size=4) == folder
        assert file.stat().st_mtime_ns == stamp
        for cut in (len(whole) // 2, 5, 0):
            file.write_bytes(whole[:cut])
            label_pack(pack, teacher, CPU, batch_size=4)
            assert file.read_bytes() == whole
        (folder / "labels.json").unlink()
        with only_one(folder, "another"), pytest.raises(ValueError, match="another .process"):
            label_pack(pack, teacher, CPU)


def test_only_what_is_missing_is_labelled(tmp_path, monkeypatch):
    for writer in (1001, 1002, 1003):
        write_gnt(tmp_path / "g" / f"{writer}-c.gnt", writer, "一十口")
    pack = open_pack(tmp_path / "g", 32, workers=1)
    teacher = load_teacher(write_checkpoint(tmp_path / "t.pt"))
    folder = label_pack(pack, teacher, CPU)
    file = folder / "labels.bin"
    whole = file.read_bytes()
    spoilt = b"\0" * (len(whole) // 3) + whole[len(whole) // 3 :]
    file.write_bytes(spoilt[:-1])
    label_pack(pack, teacher, CPU)
    assert file.read_bytes() == spoilt  # the first file is not read again


def test_pack_that_is_not_what_the_labels_are_of(tmp_path, pack):
    teacher = load_teacher(write_checkpoint(tmp_path / "t.pt"))
    next((tmp_path / "t").rglob("*.png")).unlink()
    with pytest.raises(ValueError, match="changed while it was labelled"):
        label_pack(pack, teacher, CPU)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_labelling_loses_nothing(tmp_path):
    for writer in range(1001, 1007):
        write_gnt(tmp_path / "g" / f"{writer}-c.gnt", writer, "一十口")
    pack = open_pack(tmp_path / "g", 32, workers=1)
    teacher = load_teacher(write_checkpoint(tmp_path / "t.pt"))

    def label():
        return label_pack(pack, teacher, CPU, batch_size=2)

    def logits():
        folder = label()
        rows = SoftLabels([folder], list(CLASSES), CPU).fetch(np.arange(len(pack))).logits
        shutil.rmtree(folder)
        return rows

    whole = logits()  # bytes differ with the basis, whose signs differ from process to process

    def check():
        torch.testing.assert_close(logits(), whole, rtol=0, atol=0.01 * float(whole.std()))

    kill_at_random(label, KILLS, check)


def test_basis_of_a_layer_without_a_bias():
    layer = torch.nn.Linear(6, 4, bias=False)
    basis, bias = logit_basis(torch.nn.Sequential(layer))
    assert (bias == 0).all() and bias.shape == (4,) and basis.shape == (4, 4)
    weight = layer.weight.detach().numpy()
    weight = weight - weight.mean(0)
    assert np.abs(basis @ basis.T @ weight - weight).max() < 1e-5  # nothing is lost
    with pytest.raises(ValueError, match="no linear layer"):
        logit_basis(torch.nn.ReLU())


def test_several_packs_stand_behind_one_index(tmp_path):
    teacher = load_teacher(write_checkpoint(tmp_path / "t.pt"))
    folders, rows = [], []
    for name, characters in (("a", "一"), ("b", "十口")):
        tree = write_tree(tmp_path / name, range(1001, 1003), characters, 1)
        folders.append(label_pack(open_pack(tree, 32, workers=1), teacher, CPU))
        one = SoftLabels(folders[-1:], list(CLASSES), CPU)
        rows.append(one.fetch(np.arange(len(characters) * 2)).logits)
    both = SoftLabels(folders, list(CLASSES), CPU)
    order = np.array([5, 0, 2, 1, 3, 4])
    assert torch.equal(both.fetch(order).logits, torch.cat(rows)[order])
    with pytest.raises(ValueError, match="knows none"):
        SoftLabels(folders, ["日"], CPU)


@pytest.mark.parametrize("bias", [True, False])
def test_labels_of_any_network_give_its_logits_back(tmp_path, pack, bias):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE**2, 4, bias=bias))
    teacher = Teacher(network, SIDE, 1, 2.0, list(CLASSES), "abc")
    folder = label_pack(pack, teacher, CPU, batch_size=4)
    assert folder == pack.folder / "teacher-abc"
    soft = SoftLabels([folder], list(CLASSES), CPU)
    glyphs = np.stack([to_glyph(bitmap_of(pack, i), SIDE, 1) for i in range(len(pack))])
    with torch.no_grad():
        x = torch.from_numpy(glyphs / np.float32(255) * 2)[:, None]
        expected = centred(network.float()(x).numpy())
    got = centred(soft.fetch(np.arange(len(pack))).logits.numpy())
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    mark = json.loads((folder / "labels.json").read_text())
    assert mark == {"version": 1, "bytes": len(pack) * 2 * 4}
    with np.load(folder / "teacher.npz") as data:
        assert data["classes"].tolist() == list(CLASSES) and data["basis"].shape == (4, 4)
        assert abs(data["bias"].mean()) < 1e-6


def bitmap_of(pack, index: int) -> np.ndarray:
    code, file = pack.names[index].split("/")
    return bitmap(chr(int(code[2:], 16)), int(file.split("_")[0]), 0)


def test_the_leading_directions_are_kept(monkeypatch):
    monkeypatch.setattr("training.teacher.RANK", 2)
    layer = torch.nn.Linear(6, 5)
    basis, bias = logit_basis(torch.nn.Sequential(torch.nn.Linear(3, 6), layer, torch.nn.ReLU()))
    weight = layer.weight.detach().numpy()
    weight = weight - weight.mean(0)
    left, _, _ = np.linalg.svd(weight)
    assert basis.shape == (5, 2)
    np.testing.assert_allclose(np.abs(basis.T @ left[:, :2]), np.eye(2), atol=1e-4)
    expected = layer.bias.detach().numpy()
    np.testing.assert_allclose(bias, expected - expected.mean(), atol=1e-6)


class Entries(NamedTuple):
    """What `labelled` asks of a pack: where each glyph came from."""

    names: list[str]


@pytest.mark.parametrize(
    ("files", "done", "expected"),
    [
        # Files of 2, 0 and 3 records: only whole ones count.
        ([("a.gnt", 2), ("b.gnt", 0), ("c.gnt", 3)], 0, (0, 0)),
        ([("a.gnt", 2), ("b.gnt", 0), ("c.gnt", 3)], 1, (0, 0)),
        ([("a.gnt", 2), ("b.gnt", 0), ("c.gnt", 3)], 2, (2, 2)),
        ([("a.gnt", 2), ("b.gnt", 0), ("c.gnt", 3)], 4, (2, 2)),
        ([("a.gnt", 2), ("b.gnt", 0), ("c.gnt", 3)], 5, (3, 5)),
        ([("a.gnt", 2), ("b.gnt", 0), ("c.gnt", 3)], 9, (3, 5)),
    ],
)
def test_whole_files_count_as_labelled(files, done, expected):
    entries = [Entry(name, "", 1, 1) for name, _ in files]
    names = [f"{name}#{i}" for name, count in files for i in range(count)]
    assert labelled(Entries(names), entries, done) == expected


@pytest.mark.parametrize(("done", "expected"), [(255, 0), (256, 256), (511, 256), (600, 600)])
def test_whole_tasks_of_pictures_count_as_labelled(done, expected):
    entries = [Entry(f"a/{i}.png", "a", 1, 1) for i in range(600)]
    pack = Entries([entry.path for entry in entries])
    assert labelled(pack, entries, done) == (expected, expected)
    pack.names.remove("a/3.png")  # it could not be read
    assert labelled(pack, entries, 255) == (256, 255)


def test_what_computes_in_bfloat16(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda t=there: t, raising=False
        )
        assert has_bfloat16(CPU) is there
    for generation, there in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, g=generation: g)
        assert has_bfloat16(torch.device("cuda")) is there
    assert has_bfloat16(torch.device("mps"))


def test_a_large_pack_is_labelled_by_a_compiled_network(tmp_path, pack, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(1) or network)
    teacher = load_teacher(write_checkpoint(tmp_path / "t.pt"))
    for least, times in ((len(pack) + 1, 0), (len(pack), 1)):
        monkeypatch.setattr("training.teacher.WORTH_COMPILING", least)
        shutil.rmtree(label_pack(pack, teacher, CPU))
        assert len(compiled) == times


def test_a_batch_is_of_one_size(monkeypatch):
    sizes = []

    class Counting(torch.nn.Flatten):
        def forward(self, x):
            sizes.append((tuple(x.shape), x.is_contiguous(memory_format=torch.channels_last)))
            return super().forward(x)[:, :3].float()

    teacher = Teacher(Counting(), 4, None, 10.0, list("abc"), "")
    predict = make_predictor(teacher, (np.eye(3, 2, dtype=np.float32), np.ones(3, np.float32)),
                             CPU, 5, False)  # fmt: skip
    glyphs = np.full((2, 4, 4), 51, np.uint8)
    labels = predict(glyphs)
    assert sizes == [((5, 1, 4, 4), True)] and labels.dtype == np.float16
    np.testing.assert_allclose(labels, np.full((2, 2), 10 * 0.2 - 1), rtol=0.01)


@pytest.mark.parametrize("margin", [None, 0, 7])
def test_a_live_teacher_sees_glyphs_as_large_as_if_they_were_made_for_it(margin):
    inks = [bitmap(character, 1) for character in CLASSES]
    teacher = Teacher(torch.nn.Flatten(), 48, margin, 1.0, list(CLASSES), "")
    live = LiveTeacher(teacher, list(CLASSES), 64, CPU, False)
    x = to_input(np.stack([to_glyph(ink, 64) for ink in inks]), CPU)
    expected = to_input(np.stack([to_glyph(ink, 48, margin) for ink in inks]), CPU)
    maps = draw_maps(len(x), Augmentation(), torch.Generator())

    def error(extent):
        return (warp(x, maps, live.side, extent) - expected).square().mean()

    assert error(live.extent) < min(error(live.extent * share) for share in (0.97, 1.03))


def test_a_live_teacher_tells_the_logits_of_the_classes_that_both_know(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    teacher = Teacher(network, 4, 0, 200.0, list("甲乙丙丁"), "")
    live = LiveTeacher(teacher, list("丁十乙"), 4, CPU, False)
    x = torch.rand(3, 1, 4, 4)
    soft = live.look(x)
    with torch.no_grad():
        expected = network.float()(200 * x)[:, [3, 1]]
    assert (soft.logits - expected).abs().max() < 0.02 * expected.abs().max()
    assert soft.columns.tolist() == [0, 2] and soft.logits.dtype == torch.float32
    assert not soft.logits.requires_grad and not compiled
    LiveTeacher(teacher, list("乙"), 4, CPU, True)
    assert compiled == [network]
    with pytest.raises(ValueError, match="knows none"):
        LiveTeacher(teacher, list("一"), 4, CPU, False)


@pytest.mark.parametrize(("there", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_teacher_runs_in_bfloat16_where_that_is_quick(monkeypatch, there, dtype):
    monkeypatch.setattr("training.teacher.has_bfloat16", lambda device: there)
    network, seen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)), []
    network.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    teacher = Teacher(network, 4, 0, 1.0, list("甲乙丙丁"), "")
    soft = LiveTeacher(teacher, list("甲乙"), 4, CPU, False).look(torch.rand(2, 1, 4, 4))
    assert seen == [dtype] and soft.logits.dtype == torch.float32
