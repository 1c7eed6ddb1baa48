"""export.py through its command line; its files in ONNX Runtime, predict.py and test.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CHARACTERS, ROOT, bitmap, call_script, made_once, run_script

import checkpoint
import config
from config import DEFAULT_CHECKPOINT
from picture import Proposals, to_glyph
from picture.module import ToGlyph
from recognizer import Recognizer, character_score, energy, load_network, softmax

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper  # noqa: E402

# Largest difference of a logit, as a share of the range of all logits.
TOLERANCE = {"fp32": 1e-6, "fp16": 2e-3, "int8": 0.03}


def open_alone(network: Path) -> onnxruntime.InferenceSession:
    """Return a session on one thread: more would wait where tests share the cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(network, options)


def with_changes(source: Path, target: Path, add: float = 0, **changes) -> Path:
    """Copy a checkpoint with entries changed and a number added to the weights of the head."""
    loaded = checkpoint.load(source) | changes
    loaded["model"]["classifier.3.weight"] += add
    entries = (loaded[name] for name in ("model", "config", "classes", "metrics", "epoch"))
    checkpoint.save(target, *entries)
    return target


@pytest.fixture(scope="module")
def picture_file(trained, tmp_path_factory) -> Path:
    """The fp32 network that takes pictures, with rejection parameters."""

    def make(folder: Path) -> None:
        folder.mkdir()
        reject = {"scale": 0.7, "offset": -2.0, "threshold": 0.5}
        source = with_changes(trained / "best.pt", folder / "best.pt", metrics={"reject": reject})
        done = call_script("export.py", "--checkpoint", source, "--input", "picture")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{folder / 'best-picture.onnx'}: fp32")

    return made_once(tmp_path_factory, "picture_file", make) / "best-picture.onnx"


# --- glyphs -> logits


@pytest.mark.parametrize("precision", TOLERANCE)
def test_logits_are_those_of_pytorch(exported, precision):
    session = open_alone(exported / f"{precision}.onnx")
    (entry,), (result,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape) == ("glyphs", "tensor(float)", ["N", 1, 32, 32])
    assert (result.name, result.type, result.shape) == ("logits", "tensor(float)", ["N", 6])
    glyphs = [to_glyph(bitmap(c, 1300 + i), 32) for i in range(8) for c in CHARACTERS]
    x = np.stack(glyphs)[:, None].astype(np.float32) / 255
    expected = load_network(exported / "best.pt").logits(x)
    logits = session.run(None, {"glyphs": x})[0]
    assert np.abs(logits - expected).max() < TOLERANCE[precision] * np.ptp(expected)
    # The rest of the batch makes no difference, in int8 neither.
    alone = np.concatenate([session.run(None, {"glyphs": each[None]})[0] for each in x[:6]])
    np.testing.assert_allclose(alone, logits[:6], atol=1e-4)


def test_metadata_and_size(exported):
    loaded, sizes = checkpoint.load(exported / "best.pt"), []
    for precision in TOLERANCE:
        path = exported / f"{precision}.onnx"
        metadata = open_alone(path).get_modelmeta().custom_metadata_map
        assert list(json.loads(metadata["classes"])) == loaded["classes"]
        assert json.loads(metadata["config"]) == json.loads(json.dumps(loaded["config"]))
        assert (metadata["precision"], metadata["input"]) == (precision, "glyph")
        assert load_network(path).top1 == loaded["metrics"]["top1"]
        sizes.append(path.stat().st_size - 70_000)  # nodes, biases, metadata
    assert sizes[1] < 0.6 * sizes[0] and sizes[2] < 0.45 * sizes[0]


def test_shipped_weights_are_small_in_int8(site):
    assert (site / "network.onnx").stat().st_size <= 2.5e6


def test_an_export_of_the_shipped_weights_says_so(exported, tmp_path, monkeypatch):
    assert "the shipped weights: --checkpoint" in load_network(exported / "fp32.onnx").summary
    monkeypatch.setattr(config, "DEFAULT_CHECKPOINT", str(exported / "best.pt"))
    out = tmp_path / "shipped.onnx"
    call_script("export.py", "--checkpoint", exported / "best.pt", "--out", out)
    assert load_network(out).summary == f"{out}: 6 classes, the shipped weights"


def test_test_and_predict_read_the_same(exported, data):
    pictures = sorted((data / "test").rglob("*.png"))[:12]
    figures, readings = [], []
    for name in ("best.pt", "fp32.onnx", "int8.onnx"):
        given = ["--checkpoint", exported / name, "--json"]
        figures.append(json.loads(call_script("test.py", data / "test", *given, "-").stdout))
        elements = json.loads(call_script("predict.py", *pictures, *given).stdout)
        readings.append([element["predictions"] for element in elements])
    assert figures[1]["top1"] == figures[0]["top1"]
    assert figures[1]["loss"] == pytest.approx(figures[0]["loss"], abs=1e-4)
    assert figures[2]["loss"] == pytest.approx(figures[0]["loss"], rel=0.03)
    for expected, exact, rounded in zip(*readings, strict=True):
        assert [r["character"] for r in exact] == [r["character"] for r in expected]
        shares = {r["character"]: r["probability"] for r in rounded}
        for reading in expected:
            assert shares[reading["character"]] == pytest.approx(reading["probability"], abs=0.03)


# --- pictures -> glyphs -> readings


def scan(seed: int) -> np.ndarray:
    return bitmap(CHARACTERS[seed % 6], 1300 + seed)


def on_page(seed: int) -> np.ndarray:
    picture, rng = scan(seed), np.random.default_rng(seed)
    page = np.full(np.array(picture.shape) + rng.integers(2, 150, 2), 255, np.uint8)
    y, x = (rng.integers(0, a - b) for a, b in zip(page.shape, picture.shape, strict=True))
    page[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return page


def jpeg(seed: int) -> np.ndarray:
    data = cv2.imencode(".jpg", on_page(seed), [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


KINDS = {
    "scan": scan,
    "on a page": on_page,
    "JPEG": jpeg,
    "white on black": lambda seed: 255 - on_page(seed),
    "on dark grey": lambda seed: 160 - on_page(seed) // 2,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_makes_the_glyphs_of_picture(kind):
    module, differences = ToGlyph(48), []
    for seed in range(24):
        picture = KINDS[kind](seed)
        glyph = module(torch.from_numpy(picture)[None, None])
        assert glyph.dtype == torch.uint8 and glyph.shape == (1, 48, 48)
        expected = to_glyph(picture, 48).astype(int)
        differences.append(np.abs(glyph[0].numpy() - expected).mean())
    # One in 24 may differ: a box that reaches one pixel further.
    assert np.sort(differences)[-2] < 1 and np.median(differences) < 0.2


def test_an_exported_file_reads_pictures(picture_file):
    session, module = open_alone(picture_file), ToGlyph(32)
    network = load_network(picture_file.with_name("best.pt"))
    faint = np.full((70, 90), 200)
    faint[20:30, 20:40] -= 9
    pictures = [cv2.resize(KINDS[kind](2), (90, 70)) for kind in KINDS] + [faint]
    batch = np.stack(pictures).astype(np.uint8)[:, None]
    names = ["glyph", "logits", "labels", "probabilities", "character_score"]
    glyphs, logits, labels, probabilities, scores = session.run(names, {"picture": batch})
    assert np.array_equal(glyphs, module(torch.from_numpy(batch)).numpy())
    assert glyphs[:-1].any((1, 2)).all() and not glyphs[-1].any()
    expected = network.logits(glyphs[:, None].astype(np.float32) / 255)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.array_equal(labels[:-1], np.argsort(-logits, 1)[:-1])
    np.testing.assert_allclose(probabilities, -np.sort(-softmax(logits), 1), atol=1e-5)
    np.testing.assert_allclose(scores, character_score(energy(logits), network.reject), rtol=1e-4)
    other = on_page(5)[None, None]  # of another size, alone
    (glyph,) = session.run(["glyph"], {"picture": other})
    assert np.array_equal(glyph, module(torch.from_numpy(other)).numpy())


def test_a_twin_is_read_as_the_chinese_character(site):
    picture = np.full((100, 200), 255, np.uint8)
    cv2.line(picture, (40, 50), (160, 48), 0, 8, cv2.LINE_AA)
    session = open_alone(site / "network.onnx")
    feed = {"picture": picture[None, None]}
    labels, probabilities = session.run(["labels", "probabilities"], feed)
    recognizer = Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)
    expected = recognizer.recognize([picture])[0]
    found = recognizer.network.classes[labels[0, 0]]
    assert found == expected[0].character == "一"
    assert probabilities[0, 0] == pytest.approx(expected[0].probability, abs=0.01)
    hyphen = recognizer.network.classes.index("-")
    assert probabilities[labels == hyphen].sum() == 0


# --- what goes wrong


@pytest.mark.parametrize(("precision", "weight"), [("fp16", 1e6), ("fp32", 1e38)])
def test_a_broken_network_is_not_written(trained, tmp_path, precision, weight):
    broken = with_changes(trained / "best.pt", tmp_path / "broken.pt", add=weight)
    done = call_script("export.py", "--checkpoint", broken, "--precision", precision)
    assert done.returncode == 2 and "nothing was written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


def test_labels_may_be_words(trained, tmp_path):
    names = [c + "x" for c in "abcdef"]
    source = with_changes(trained / "best.pt", tmp_path / "words.pt", classes=names)
    done = call_script("export.py", "--checkpoint", source)
    assert done.returncode == 0, done.stderr
    assert load_network(tmp_path / "words.onnx").classes == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "absent.pt"], "absent.pt: no such checkpoint"),
        (["--checkpoint", "text.pt"], "text.pt: not a readable checkpoint"),
        (["--out", "model.bin"], "expected a name that ends in .onnx"),
        (["--page", "site", "--out", "a.onnx"], "--page writes network.onnx"),
    ],
)
def test_bad_input_is_one_sentence(trained, tmp_path, arguments, message):
    shutil.copy(trained / "best.pt", tmp_path)
    (tmp_path / "text.pt").write_text("not a checkpoint")
    if "--checkpoint" not in arguments:
        arguments = ["--checkpoint", "best.pt", *arguments]
    done = call_script("export.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(exported, tmp_path, monkeypatch, package):
    (tmp_path / f"{package}.py").write_text(f"raise ImportError(name={package!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_script("export.py", "--checkpoint", exported / "best.pt")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: exporting needs the package {package}: pip install -r")
    if package == "onnxruntime":
        done = run_script("predict.py", "a.png", "--checkpoint", exported / "fp32.onnx")
        assert done.returncode == 2 and "needs the package onnxruntime" in done.stderr


@pytest.mark.parametrize("script", ["predict.py", "process_gnt.py"])
def test_a_missing_system_library_is_one_sentence(tmp_path, monkeypatch, script):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_script(script, *(["samples"] if script == "process_gnt.py" else []), cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "libGL.so.1" in done.stderr and "opencv-python-headless" in done.stderr


# --- ONNX files of others


def test_not_an_export(picture_file, tmp_path):
    path = tmp_path / "network.onnx"
    with pytest.raises(FileNotFoundError, match="no such file; python export.py makes one"):
        load_network(path)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="not a readable ONNX file"):
        load_network(path)
    with pytest.raises(ValueError, match="--input glyph"):
        load_network(picture_file)


def foreign(*nodes, metadata: dict | None = None, external: str = "") -> bytes:
    """Return an ONNX file that export.py did not write: three logits of a glyph of 32 pixels."""
    weights = onnx.numpy_helper.from_array(np.ones((1024, 3), np.float32), "weights")
    if external:
        weights = TensorProto(name="weights", dims=[1024, 3], data_type=TensorProto.FLOAT)
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=external)
    huge = onnx.numpy_helper.from_array(np.array([1 << 42]), "huge")
    nodes = [
        helper.make_node("Flatten", ["glyph"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
        *(nodes or [helper.make_node("Identity", ["sums"], ["logits"])]),
    ]
    glyph = helper.make_tensor_value_info("glyph", TensorProto.FLOAT, ["N", 1, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "foreign", [glyph], [logits], [weights, huge])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    given = {"classes": list("一二三"), "config": {"size": 32}} | (metadata or {})
    helper.set_model_props(model, {key: json.dumps(value) for key, value in given.items()})
    return model.SerializeToString()


@pytest.mark.parametrize(
    "metadata",
    [{"config": {}}, {"config": {"size": 64}}, {"classes": 5}, {"classes": list("一一二")},
     {"classes": [1, 2, 3]}, {"reject": {"scale": 1, "offset": 2, "threshold": "high"}}],
)  # fmt: skip
def test_wrong_metadata(tmp_path, metadata):
    path = tmp_path / "network.onnx"
    path.write_bytes(foreign())
    assert load_network(path).size == 32
    path.write_bytes(foreign(metadata=metadata))
    with pytest.raises(ValueError, match=r"network.onnx: not a file that export.py writes"):
        load_network(path)


def test_hostile_files_are_one_sentence(tmp_path):
    """Weights in another file, terabytes, no numbers."""
    path = tmp_path / "network.onnx"
    fill = helper.make_node("ConstantOfShape", ["huge"], ["logits"])
    for content, message in (
        (foreign(external="/etc/hostname"), "not a readable ONNX file"),
        (foreign(fill), "not a (readable ONNX|file that export)"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_network(path)
    path.write_bytes(foreign(helper.make_node("Log", ["sums"], ["logits"])))
    with pytest.raises(ValueError, match="not finite"):
        blank = Proposals(np.zeros((1, 32, 32), np.uint8), [], np.zeros(1, np.float32))
        Recognizer(load_network(path)).read([blank])
