"""export.py through its command line: three precisions, read back by predict.py and test.py."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import (
    CHARACTERS,
    KILLS,
    bitmap,
    call_script,
    kill_at_random,
    load_script,
    made_once,
    write_gnt,
)

import checkpoint
import export
import recognizer
from config import DEFAULT_CHECKPOINT
from model import to_input
from picture import to_glyph
from recognizer import Recognizer, character_score, energy, load_network, softmax

PRECISIONS = ("fp32", "fp16", "int8")
# Largest difference of a logit, as a share of the logits' own spread.
TOLERANCE = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.08}

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
from onnx_graph.network import BLOCK, ENOUGH_TO_DROP, calibrate  # noqa: E402


@pytest.fixture(scope="module")
def picture_file(trained, tmp_path_factory) -> Path:
    """The fp32 network that takes pictures."""

    def make(folder: Path) -> None:
        folder.mkdir()
        shutil.copy(trained / "best.pt", folder)
        arguments = ["--checkpoint", folder / "best.pt", "--input", "picture", "--samples", 64]
        done = call_script("export.py", *arguments)
        assert done.returncode == 0, done.stderr
        out = folder / "best-picture.onnx"
        assert done.stdout.startswith(f"{out}: fp32") and "takes a picture" in done.stdout

    return made_once(tmp_path_factory, "picture_file", make) / "best-picture.onnx"


def open_alone(network: Path | bytes) -> onnxruntime.InferenceSession:
    """Return a session on one thread: more would wait where tests share the cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(network, options)


def drawing(seed: int) -> np.ndarray:
    """Return a scan, clean or not, dark on light or not, on a page, or in uneven light."""
    picture = bitmap(CHARACTERS[seed % 6], 1300 + seed)
    rng = np.random.default_rng(seed)
    wide = np.full(np.array(picture.shape) + rng.integers(2, 150, 2), 255, np.uint8)
    y, x = (rng.integers(0, a - b) for a, b in zip(wide.shape, picture.shape, strict=True))
    wide[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    grey = wide // 2 + 100
    half = cv2.resize(wide, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    light = wide * np.linspace(0.5, 1, wide.shape[1]) * np.linspace(1, 0.8, len(wide))[:, None]
    kinds = (picture, 255 - picture, wide, grey, half, light.astype(np.uint8))
    return kinds[seed // 6 % 6]


def test_pictures_become_the_glyphs_of_picture_py(picture_file):
    session = open_alone(picture_file)
    network = load_network(picture_file.with_name("best.pt"))
    same, near = [], []
    for seed in range(72):
        picture = drawing(seed)
        try:
            expected = to_glyph(picture, 32)
        except ValueError:  # "blank", of the faintest
            continue
        names = ["glyph", "logits", "labels", "probabilities"]
        results = session.run(names, {"picture": picture[None, None]})
        glyph, logits, labels, probabilities = (result[0] for result in results)
        assert glyph.dtype == np.uint8
        near.append(np.abs(glyph.astype(int) - expected).mean() < 1)
        np.testing.assert_allclose(
            logits, network.logits(glyph[None, None].astype(np.float32) / 255)[0], atol=1e-3
        )
        order = np.argsort(-logits)
        assert np.array_equal(labels, order)
        np.testing.assert_allclose(probabilities, softmax(logits[None])[0][order], atol=1e-5)
        theirs = network.logits(expected[None, None].astype(np.float32) / 255)[0]
        if seed // 6 % 6 < 5:  # uneven light is a photo's
            same.append(theirs.argmax() == logits.argmax())
    assert len(near) >= 69 and len(same) >= 57 and np.mean(same) >= 0.995 and np.mean(near) >= 0.9


def hard(seed: int) -> np.ndarray:
    """Return a thin pen as JPEG keeps it, a small character on a large page, or one with specks."""
    rng, scan = np.random.default_rng(seed), bitmap(CHARACTERS[seed % 6], 1300 + seed)
    side, page = ((36, 64), (28, 300), (90, 128))[seed % 3]
    small = cv2.resize(scan, (side, side), interpolation=cv2.INTER_AREA)
    picture = np.full((page, page), 255, np.uint8)
    y, x = rng.integers(0, page - side, 2)
    picture[y : y + side, x : x + side] = small
    picture = 40 + (picture // 2 if seed % 2 else (255 - picture) // 2)
    if seed % 3 == 0:
        return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], 0)
    if seed % 3 == 2:  # specks
        around = np.ones_like(picture, bool)
        around[max(0, y - 8) : y + side + 8, max(0, x - 8) : x + side + 8] = False
        picture[around & (rng.random(picture.shape) < 0.001)] = 100
    return picture


def test_hard_pictures_become_the_same_glyphs(picture_file):
    session, near = open_alone(picture_file), []
    for seed in range(36):
        picture = hard(seed)
        glyph = session.run(["glyph"], {"picture": picture[None, None]})[0][0]
        near.append(np.abs(glyph.astype(int) - to_glyph(picture, 32)).mean())
    assert np.mean(np.array(near) < 1) >= 0.9


def test_pictures_of_one_size_are_a_batch(picture_file):
    session = open_alone(picture_file)
    scan = cv2.resize(bitmap("大", 1300), (90, 70), interpolation=cv2.INTER_AREA)
    wide, black = scan.T[:70, :70].repeat(2, 1)[:, :90], np.where(scan < 128, 200, 10)
    kinds = (scan, 255 - scan, np.full_like(scan, 255), wide, black, scan // 2 + 100)
    batch = np.stack(kinds).astype(np.uint8)
    logits, glyphs = session.run(["logits", "glyph"], {"picture": batch[:, None]})
    for picture, alone, glyph in zip(batch, logits, glyphs, strict=True):
        expected = session.run(["logits", "glyph"], {"picture": picture[None, None]})
        np.testing.assert_allclose(alone, expected[0][0], atol=1e-4)
        assert np.array_equal(glyph, expected[1][0])
    assert not glyphs[2].any() and glyphs[0].any()


def test_the_score_is_in_the_file(exported, tmp_path):
    loaded = checkpoint.load(exported / "best.pt")
    reject = {"scale": 0.7, "offset": -2.0, "threshold": 0.5}
    loaded["metrics"]["reject"] = reject
    rest = (loaded[key] for key in ("config", "classes", "metrics", "epoch"))
    checkpoint.save(tmp_path / "scored.pt", loaded["model"], *rest)
    arguments = ["--checkpoint", tmp_path / "scored.pt", "--samples", 64]
    for takes in ("glyph", "picture"):
        assert call_script("export.py", *arguments, "--input", takes).returncode == 0
    assert load_network(tmp_path / "scored.onnx").reject == reject
    session = open_alone(tmp_path / "scored-picture.onnx")
    feed = {"picture": bitmap("大", 1300)[None, None]}
    score, logits = session.run(["character_score", "logits"], feed)
    np.testing.assert_allclose(score, character_score(energy(logits), reject), rtol=1e-4)


def test_a_file_for_pictures_is_no_recognizer(picture_file):
    with pytest.raises(ValueError, match="--input glyph"):
        load_network(picture_file)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_are_pytorchs(exported, data, precision):
    loaded = checkpoint.load(exported / "best.pt")
    model = checkpoint.build_model(loaded).eval()
    glyphs, _ = export.some_glyphs(str(data / "train"), 32, loaded["classes"], 50)
    x = to_input(glyphs)
    session = open_alone(exported / f"{precision}.onnx")
    (entry,), (result,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape[1:]) == ("glyphs", "tensor(float)", [1, 32, 32])
    assert (result.name, result.type, result.shape[1:]) == ("logits", "tensor(float)", [6])
    with torch.no_grad():
        expected = model(x).numpy()
    for count in (1, 50):  # the batch is free
        logits = session.run(None, {"glyphs": x[:count].numpy()})[0]
        limit = TOLERANCE[precision] * np.ptp(expected)
        assert np.abs(logits - expected[:count]).max() < limit


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_feature_maps_stay_in_one_layout(tmp_path, precision):
    """Changing the layout around each squeeze-and-excite cost a fifth of the time."""
    import onnx

    loaded = checkpoint.load(DEFAULT_CHECKPOINT)
    model = checkpoint.build_model(loaded).eval()
    calibration = None
    if precision == "int8":
        glyphs, _ = export.some_glyphs("", loaded["config"]["size"], loaded["classes"], 256)
        calibration = calibrate(model, glyphs)
        hidden = sum(len(kept) for kept in calibration.firing.values())
        assert hidden < sum(len(gate.fc1.bias) for gate in calibration.firing)  # some were dropped
    proto = export.to_onnx(model, loaded, precision, calibration)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    if "ReorderInput" not in kinds:
        pytest.skip("onnxruntime has one layout only on this processor")
    assert kinds.count("ReorderInput") + kinds.count("ReorderOutput") <= 4


def test_int8_leaves_out_gate_units_that_never_fire(exported, data):
    loaded = checkpoint.load(exported / "best.pt")
    model = checkpoint.build_model(loaded).eval()
    glyphs, _ = export.some_glyphs(str(data / "train"), 32, loaded["classes"], 64)
    glyphs = np.resize(glyphs, (ENOUGH_TO_DROP, 32, 32))
    gate = model.features[11].block[2]
    firing = range(0, len(gate.fc1.bias), 9)
    with torch.no_grad():
        gate.fc1.bias.fill_(-100.0)[firing] = 100.0
        expected = model(to_input(glyphs)).numpy()
    calibration = calibrate(model, glyphs)
    kept = calibration.firing[gate].tolist()
    assert set(firing) < set(kept) and len(kept) == BLOCK
    proto = export.to_onnx(model, loaded, "int8", calibration)
    shapes = {item.name: list(item.dims) for item in proto.graph.initializer}
    assert shapes["features.11.block.2.fc1.weight"][0] == BLOCK
    session = open_alone(proto.SerializeToString())
    logits = session.run(None, {"glyphs": to_input(glyphs).numpy()})[0]
    assert np.abs(logits - expected).max() < TOLERANCE["int8"] * np.ptp(expected)


def test_few_glyphs_say_nothing_of_what_never_fires(exported):
    loaded = checkpoint.load(exported / "best.pt")
    model = checkpoint.build_model(loaded).eval()
    few, _ = export.some_glyphs("", 32, loaded["classes"], ENOUGH_TO_DROP - 1)
    calibration = calibrate(model, few)
    assert all(len(kept) == len(gate.fc1.bias) for gate, kept in calibration.firing.items())


def test_a_row_of_zeros_keeps_its_bias(exported):
    loaded = checkpoint.load(exported / "best.pt")
    loaded["model"]["classifier.3.weight"][2] = 0
    loaded["model"]["classifier.3.bias"][2] = 10
    model = checkpoint.build_model(loaded).eval()
    glyphs, _ = export.some_glyphs("", 32, loaded["classes"], 64)
    proto = export.to_onnx(model, loaded, "int8", calibrate(model, glyphs))
    session = open_alone(proto.SerializeToString())
    logits = session.run(None, {"glyphs": to_input(glyphs).numpy()})[0]
    np.testing.assert_allclose(logits[:, 2], 10, atol=0.01)


@pytest.mark.parametrize(("precision", "weight"), [("fp16", 1e6), ("fp32", 1e38)])
def test_a_network_that_is_broken_is_not_written(exported, tmp_path, capsys, precision, weight):
    loaded = checkpoint.load(exported / "best.pt")
    loaded["model"]["classifier.3.weight"][0] = weight
    rest = (loaded[key] for key in ("config", "classes", "metrics", "epoch"))
    checkpoint.save(tmp_path / "broken.pt", loaded["model"], *rest)
    arguments = ["--checkpoint", str(tmp_path / "broken.pt"), "--precision", precision]
    assert export.main([*arguments, "--samples", "64"]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


def test_readings_that_differ_are_said(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda *_: (0.5, 0.9, 100))
    out = tmp_path / "poor.onnx"
    arguments = ["--checkpoint", str(exported / "best.pt"), "--precision", "int8"]
    assert export.main([*arguments, "--samples", "64", "--out", str(out)]) == 0
    assert "reads 10% of them otherwise" in capsys.readouterr().err and out.is_file()


def test_metadata_tell_classes_and_config(exported):
    loaded = checkpoint.load(exported / "best.pt")
    for precision in PRECISIONS:
        session = open_alone(exported / f"{precision}.onnx")
        metadata = session.get_modelmeta().custom_metadata_map
        assert list(json.loads(metadata["classes"])) == loaded["classes"]
        assert json.loads(metadata["config"]) == loaded["config"]
        assert metadata["precision"] == precision


def test_smaller_precision_makes_smaller_files(exported):
    fp32, fp16, int8 = (
        (exported / f"{p}.onnx").stat().st_size - 60_000  # nodes, biases, metadata
        for p in PRECISIONS
    )
    assert fp16 < 0.55 * fp32 and int8 < 0.35 * fp32


def test_test_and_predict_read_the_same(exported, data):
    pictures = sorted((data / "test").rglob("*.png"))[:12]
    figures, readings = [], []
    for name in ("best.pt", "fp32.onnx", "int8.onnx"):
        done = call_script("test.py", data / "test", "--checkpoint", exported / name, "--json", "-")
        assert done.returncode == 0, done.stderr
        figures.append(json.loads(done.stdout))
        done = call_script("predict.py", *pictures, "--checkpoint", exported / name, "--json")
        assert done.returncode == 0, done.stderr
        readings.append([element["predictions"] for element in json.loads(done.stdout)])
    assert figures[1]["top1"] == figures[0]["top1"]
    assert figures[1]["loss"] == pytest.approx(figures[0]["loss"], abs=1e-4)
    assert figures[2]["loss"] == pytest.approx(figures[0]["loss"], rel=0.03)
    for expected, exact, rounded in zip(*readings, strict=True):
        order = [reading["character"] for reading in expected]
        assert [reading["character"] for reading in exact] == order
        if expected[0]["probability"] - expected[1]["probability"] > 0.1:
            assert rounded[0]["character"] == order[0]
        best = {r["character"]: r["probability"] for r in rounded}
        for reading in expected:
            assert best[reading["character"]] == pytest.approx(reading["probability"], abs=0.05)


def test_no_data_is_needed(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--checkpoint", str(exported / "best.pt"), "--precision", "int8"]
    assert export.main([*arguments, "--samples", "64"]) == 0
    assert "32 of 64 synthetic glyphs" in capsys.readouterr().out
    assert (exported / "best-int8.onnx").is_file()


def test_labels_that_are_words(tmp_path, exported, capsys):
    loaded = checkpoint.load(exported / "best.pt")
    names = ["one", "two", "three", "four", "five", "six"]
    words = tmp_path / "words.pt"
    checkpoint.save(words, loaded["model"], loaded["config"], names, {}, 1)
    assert export.main(["--checkpoint", str(words), "--calibration", str(tmp_path)]) == 2
    glyphs = write_gnt(tmp_path / "1001-c.gnt", 1001)
    assert export.main(["--checkpoint", str(words), "--calibration", str(glyphs)]) == 0
    session = open_alone(tmp_path / "words.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", "absent.pt"], "absent.pt: no such checkpoint"),
        (["--checkpoint", "text.pt"], "text.pt: not a readable checkpoint"),
        (["--out", "model.bin"], "expected a name that ends in .onnx"),
        (["--calibration", "absent"], "absent: no such folder"),
        (["--samples", "1"], "--samples is 1"),
        (["--page", "site", "--out", "a.onnx"], "--page writes network.onnx"),
    ],
)
def test_one_sentence_for_bad_input(exported, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("text.pt").write_text("not a checkpoint")
    if "--checkpoint" not in arguments:
        arguments = ["--checkpoint", str(exported / "best.pt"), *arguments]
    assert export.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package_is_named(exported, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    for script in ("export", "predict"):  # imports anew
        monkeypatch.delitem(sys.modules, script, raising=False)
    monkeypatch.setattr("conftest.load_script", load_script.__wrapped__)
    done = call_script("export.py", "--checkpoint", exported / "best.pt")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: exporting needs the package {package}: pip install -r")
    if package == "onnxruntime":
        done = call_script("predict.py", "a.png", "--checkpoint", exported / "fp32.onnx")
        assert done.returncode == 2 and "needs the package onnxruntime" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\0" * 100, "not a readable ONNX file"), (None, "no such file; python export.py makes one")],
)
def test_not_an_export(tmp_path, content, said):
    path = tmp_path / "network.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_network(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_export_leaves_a_whole_file_or_none(exported, data, tmp_path):
    out, found = tmp_path / "a.onnx", []
    given = ["--checkpoint", exported / "best.pt", "--out", out, "--calibration", data / "train"]

    def work():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert export.main([*map(str, given)]) == 0

    work()
    whole = out.read_bytes()
    out.unlink()

    def check():
        found.append(out.exists())
        assert not out.exists() or out.read_bytes() == whole
        work()
        assert out.read_bytes() == whole
        out.unlink()

    kill_at_random(work, KILLS, check)
    print(f"files left by kills: {sum(found)}")


def foreign(*nodes, metadata: dict | None = None, external: str = "") -> bytes:
    """Return an ONNX file that is none of ours: three logits of a glyph of 32 pixels."""
    import onnx
    from onnx import TensorProto, helper

    weights = onnx.numpy_helper.from_array(np.ones((1024, 3), np.float32), "weights")
    if external:
        weights = TensorProto(name="weights", dims=[1024, 3], data_type=TensorProto.FLOAT)
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=external)
    numbers = {"huge": np.array([1 << 42]), "many": np.array(1 << 60), "yes": np.array(True)}
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in numbers.items()]
    nodes = [
        helper.make_node("Flatten", ["glyph"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
        *(nodes or [helper.make_node("Identity", ["sums"], ["logits"])]),
    ]
    glyph = helper.make_tensor_value_info("glyph", TensorProto.FLOAT, ["N", 1, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "foreign", [glyph], [logits], [weights, *constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    given = {"classes": list("一二三"), "config": {"size": 32}} | (metadata or {})
    helper.set_model_props(model, {key: json.dumps(value) for key, value in given.items()})
    return model.SerializeToString()


def endless():
    """Return a node that goes on for ever."""
    from onnx import TensorProto, helper

    flag = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("go", "on")]
    sums = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    same = [helper.make_node("Identity", [a], [b]) for a, b in (("go", "on"), ("x", "y"))]
    body = helper.make_graph(same, "body", [count, flag[0], sums[0]], [flag[1], sums[1]])
    return helper.make_node("Loop", ["many", "yes", "sums"], ["logits"], body=body)


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": {}},
        {"config": [1]},
        {"config": {"size": "32"}},
        {"config": {"size": 10**9}},
        {"config": {"size": 64}},
        {"classes": 5},
        {"classes": list("一二")},
        {"classes": list("一一二")},
        {"classes": [1, 2, 3]},
        {"reject": [1]},
        {"reject": {"scale": 1, "offset": 2}},
        {"reject": {"scale": 1, "offset": 2, "threshold": "high"}},
    ],
)
def test_an_onnx_file_whose_metadata_are_wrong(tmp_path, metadata):
    path = tmp_path / "network.onnx"
    path.write_bytes(foreign())
    assert load_network(path).size == 32
    path.write_bytes(foreign(metadata=metadata))
    with pytest.raises(ValueError, match=r"network.onnx: not a file that export.py writes"):
        load_network(path)


def test_an_onnx_file_that_means_harm(tmp_path, monkeypatch):
    """A file elsewhere, terabytes, no end, no numbers: one sentence each."""
    from onnx import helper

    monkeypatch.setattr(recognizer, "TRY_SECONDS", 0.5)
    path = tmp_path / "network.onnx"
    fill = helper.make_node("ConstantOfShape", ["huge"], ["logits"])
    for content, said in (
        (foreign(external="/etc/hostname"), "not a readable ONNX file"),
        (foreign(external="../elsewhere.bin"), "not a readable ONNX file"),
        (foreign(fill), "not a (readable ONNX|file that export)"),
        (foreign(endless()), "not a file that export.py writes"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            load_network(path)
    path.write_bytes(foreign(helper.make_node("Log", ["sums"], ["logits"])))
    with pytest.raises(ValueError, match="no numbers"):
        Recognizer(load_network(path)).read(np.zeros((1, 32, 32), np.uint8))
