"""Teachers: what they expect, what they see, and what is learned from them."""

import json

import numpy as np
import pytest
import torch
from conftest import CHARACTERS, STILL

import checkpoint
from config import Config
from jobs.devices import Processes
from model import mobilenet_v3
from train import loss_function, open_run
from training.samples import View
from training.teacher import Network, Teacher, load_teacher

CPU = torch.device("cpu")
CLASSES = "一十口人"
SIDE = 16


def write_onnx(path, classes: int = 4, metadata: dict | None = None, shape=(1, SIDE, SIDE)):
    """Write a linear teacher with input (N,*shape); return its weight and bias."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
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
    opset = [onnx.helper.make_opsetid("", 17)]
    proto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
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


def test_teachers_that_cannot_be_read(tmp_path):
    write_onnx(tmp_path / "t.onnx")
    with pytest.raises(ValueError, match="4 logits for 3755 classes.*metadata"):
        load_teacher(tmp_path / "t.onnx")
    for classes in ("not JSON", '"一一"'):
        write_onnx(tmp_path / "t.onnx", metadata={"classes": classes})
        with pytest.raises(ValueError, match="`classes` in its metadata"):
            load_teacher(tmp_path / "t.onnx")
    (tmp_path / "bad.onnx").write_bytes((tmp_path / "t.onnx").read_bytes()[:200])
    with pytest.raises(ValueError, match="bad.onnx: not a readable ONNX"):
        load_teacher(tmp_path / "bad.onnx")
    for shape in ((1, "S", "S"), (SIDE, SIDE)):
        write_onnx(tmp_path / "t.onnx", shape=shape)
        with pytest.raises(ValueError, match="expected \\(N, 1, S, S\\)"):
            load_teacher(tmp_path / "t.onnx")
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        load_teacher(tmp_path / "none.onnx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_files_of_export_are_teachers(exported, precision):
    """They predict what their checkpoint predicts, also where onnx2torch lacks an operator."""
    network = load_teacher(exported / f"{precision}.onnx")
    original = load_teacher(exported / "best.pt")
    assert (network.size, network.classes) == (original.size, original.classes)
    x = torch.rand(8, 1, 32, 32)
    found, expected = (
        Teacher(teacher, CHARACTERS, Config(size=32), CPU).predict(x)
        for teacher in (network, original)
    )
    assert found.shape == (8, 6) and found.dtype == torch.float32
    # On a CPU with bfloat16, PyTorch's modules run in it.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.3 * float(expected.std()))


def first_view(run) -> View:
    return next(run.samples.views(0, 0, 1, run.teacher))


def run_with(data, teacher, **settings):
    small = {"size": 32, "width": 0.25, "head": 16, "batch_size": 8, "workers": 1, "device": "cpu"}
    config = Config(data=(str(data / "train"),), teacher=str(teacher), **small | settings)
    return open_run(config, Processes(0, 1, 0), None)


def test_logits_are_those_of_the_classes_that_both_know(data, tmp_path):
    weight, bias = write_onnx(tmp_path / "t.onnx", 4, {"classes": json.dumps(CLASSES)})
    run = run_with(data, tmp_path / "t.onnx", teacher_scale=3)
    x = torch.rand(8, 1, SIDE, SIDE)
    logits = (x.reshape(8, -1).numpy() * 3) @ weight.T + bias
    both = [(i, CLASSES.index(c)) for i, c in enumerate(run.samples.classes) if c in CLASSES]
    columns, known = map(list, zip(*both, strict=True))
    assert run.teacher.columns.tolist() == columns
    tolerance = 0.05 * logits.std()  # bfloat16 on some processors
    np.testing.assert_allclose(run.teacher.predict(x), logits[:, known], atol=tolerance)


def test_teacher_sees_the_warp_before_the_view_is_degraded(data, tmp_path):
    path = write_checkpoint(tmp_path / "t.pt")
    plain = run_with(data, path, coarse=0.0, blur=0.0, leftovers=0.0)
    worse = run_with(data, path, coarse=1.0, blur=1.0, leftovers=1.0)
    still = run_with(data, path, **STILL)
    one, two, three = (first_view(run) for run in (plain, worse, still))
    assert not torch.equal(one.x, two.x) and torch.equal(one.target, two.target)
    assert not torch.equal(one.target, three.target)
    assert (one.confidence == 1).all() and (two.confidence < 1).any()
    alone = next(plain.samples.views(0, 0, 1))
    assert torch.equal(alone.x, one.x) and alone.target is None


def test_a_teacher_gets_the_margin_that_it_expects(data, tmp_path):
    write_onnx(tmp_path / "t.onnx", 6, {"classes": json.dumps(CHARACTERS)})
    run = run_with(data, tmp_path / "t.onnx", teacher_margin=4, **STILL)
    views, predict = [], run.teacher.predict
    run.teacher.predict = lambda x: views.append(x) or predict(x)
    first_view(run)
    assert views[0].shape == (8, 1, 16, 16) and views[0][..., 4:12, 4:12].amax() > 0.9
    assert views[0][..., :3].amax() == views[0][..., 13:, :].amax() == 0


def test_a_teacher_must_know_some_class():
    network = Network(torch.nn.Identity(), SIDE, list(CLASSES))
    with pytest.raises(ValueError, match="knows none"):
        Teacher(network, "日", Config(), CPU)
    with pytest.raises(ValueError, match="--teacher-margin 8 leaves nothing"):
        Teacher(network, "一", Config(teacher_margin=8), CPU)


def teacher_of(columns: list[int], classes: int) -> Teacher:
    """Return a teacher that knows some of the classes 0...classes."""
    names = [str(i) for i in range(classes)]
    network = Network(torch.nn.Identity(), SIDE, [names[i] for i in columns])
    return Teacher(network, names, Config(), CPU)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_losses_are_mixed_sample_by_sample():
    """All at once: labels, none, no character, leftovers, misread, unknown to the teacher."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 4)).astype(np.float32)
    labels = np.array([0, 3, -100, -100, 1, 2, 2])
    confidence = np.array([1, 1, 1, 0, 0.4, 1, 1], np.float32)
    target = rng.normal(size=(7, 3)).astype(np.float32)
    target[[0, 4, 5], [0, 1, 2]] += 5  # reads these
    target[6, 0] += 5  # and misreads the last
    config = Config(teacher_weight=0.6, logit_weight=0.5, label_smoothing=0.2)
    aim = target * confidence[:, None]
    centred = aim - aim.mean(1, keepdims=True)
    energy = (centred**2).mean()
    losses = []
    for i, (row, label, sure) in enumerate(zip(logits, labels, confidence, strict=True)):
        logprob = np.log(softmax(row))
        sure = sure * 0.8
        hard = -(sure * (logprob[label] if label >= 0 else 0) + (1 - sure) * logprob.mean())
        soft = -(softmax(aim[i]) * logprob[:3]).sum()
        error = ((row[:3] - row[:3].mean() - centred[i]) ** 2).mean() / energy
        trust = {1: 0.0, 3: 0.0, 6: 0.3}.get(i, 1.0)
        weight = 1.0 if i == 2 else 0.6 * trust
        losses.append((1 - weight) * hard + weight * soft + 0.5 * trust * error)
    parts = (torch.from_numpy(part) for part in (labels, confidence, target))
    view = View(torch.empty(0), *parts)
    teacher = teacher_of([0, 1, 2], 4)
    found = loss_function(torch.from_numpy(logits), view, config, teacher)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_teacher_of_one_class_gives_a_finite_loss():
    view = View(torch.empty(0), torch.tensor([0, 1]), torch.ones(2), torch.zeros(2, 1))
    config = Config(logit_weight=1.0)
    assert torch.isfinite(loss_function(torch.randn(2, 3), view, config, teacher_of([0], 3)))
