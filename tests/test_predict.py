"""predict.py and the Recognizer as their users meet them."""

import io
import json
import multiprocessing
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CHARACTERS, ROOT, bitmap, call_script, run_script, several
from PIL import Image

import checkpoint
from config import DEFAULT_CHECKPOINT
from recognizer import Recognizer, character_score, choose, energy, softmax


@pytest.fixture(scope="module")
def weights(trained):
    return trained / "best.pt"


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures, good and bad ones."""
    folder = tmp_path / "图片"
    folder.mkdir()
    for i, character in enumerate(CHARACTERS):
        ink = bitmap(character, 1300 + i)
        cv2.imencode(".png", 255 - ink if i % 2 else ink)[1].tofile(folder / f"{i}.png")
    return folder


def test_table_and_json_say_the_same(weights, pictures):
    (pictures / "notes.txt").write_text("no picture")
    table = call_script("predict.py", pictures, "--checkpoint", weights, "--top-k", 3)
    assert "skipped files of other types: notes.txt" in table.stderr
    done = call_script("predict.py", pictures, "--checkpoint", weights, "--top-k", 3, "--json")
    assert table.returncode == done.returncode == 0, table.stderr
    elements = json.loads(done.stdout)
    assert [e["path"] for e in elements] == [str(pictures / f"{i}.png") for i in range(6)]
    for element in elements:
        assert [p["character"] in CHARACTERS for p in element["predictions"]] == [True] * 3
        values = [p["probability"] for p in element["predictions"]]
        assert values == sorted(values, reverse=True) and 0 < sum(values) <= 1.001
        best = element["predictions"][0]
        assert f"   1  {best['character']}" in table.stdout


def test_neither_labels_nor_file_names_move_the_cursor(trained, tmp_path):
    loaded = checkpoint.load(trained / "best.pt")
    labels = [*CHARACTERS[:5], "\x1b[2J"]
    checkpoint.save(tmp_path / "a.pt", loaded["model"], loaded["config"], labels, {}, 1)
    (tmp_path / "notes\x1b[2J.txt").write_text("no picture")
    cv2.imencode(".png", bitmap("一", 1300))[1].tofile(tmp_path / "a\n\x1b.png")
    done = call_script("predict.py", tmp_path, "--checkpoint", tmp_path / "a.pt")
    assert done.returncode == 0 and "\\x1b[2J" in done.stdout and "\\x1b[2J" in done.stderr
    assert all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr)


def test_bad_pictures_get_a_sentence_each_and_the_others_are_read(weights, pictures, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # closed
    blank = pictures / "blank.png"
    cv2.imencode(".png", np.full((50, 50), 255, np.uint8))[1].tofile(blank)
    (pictures / "text.png").write_text("no picture")
    missing, empty = pictures / "missing.png", pictures / "empty"
    empty.mkdir()
    given = [empty, "-", pictures, missing, "--checkpoint", weights, "--json"]
    done = call_script("predict.py", *given)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    elements = json.loads(done.stdout)
    bad = [e for e in elements if "error" in e]
    paths = [str(path) for path in (empty, "-", blank, pictures / "text.png", missing)]
    assert len(elements) == 11 and [e["path"] for e in bad] == paths
    assert all("predictions" not in e for e in bad)
    lines = done.stderr.splitlines()[1:]  # after the line that names the network
    assert len(lines) == 5 and all(line.startswith("error: ") for line in lines)
    expected = "holds no pictures", "standard input", "blank", "not a picture", "no such file"
    assert all(text in line for text, line in zip(expected, lines, strict=True))


def test_standard_input(weights, pictures, monkeypatch):
    data = io.TextIOWrapper(io.BytesIO((pictures / "0.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", data)
    done = call_script("predict.py", "-", "--checkpoint", weights, "--json")
    (element,) = json.loads(done.stdout)
    assert done.returncode == 0 and element["path"] == "-" and len(element["predictions"]) == 3
    monkeypatch.setattr(sys, "stdin", None)  # closed
    done = call_script("predict.py", "-", "--checkpoint", weights)
    assert done.returncode == 2 and "error: standard input: not a picture" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "--checkpoint", "nowhere.pt"], "no such checkpoint"),
        (["x.png", "--checkpoint", "nowhere.onnx"], "no such file"),
        (["x.png", "--checkpoint", __file__], "not a readable checkpoint"),
        (["x.png", "--top-k", "0"], "--top-k"),
    ],
)
def test_bad_arguments(arguments, message):
    done = call_script("predict.py", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and message in done.stderr


# Makes Python refuse to import some packages: reading with an ONNX file does without them.
BLOCKED = """
import sys
blocked = {names}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def run_without(names: list[str], code: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run code in a Python that has none of the modules."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=names) + code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )


def test_an_onnx_file_is_read_with_numpy_opencv_and_onnxruntime_alone(exported, pictures):
    names = ["torch", "torchvision", "tqdm", "filelock", "dataset", "multiprocessing", "onnx"]
    code = "import predict; sys.exit(predict.main(sys.argv[1:]))"
    done = run_without(names, code, pictures, "--checkpoint", exported / "fp32.onnx", "--json")
    assert done.returncode == 0, done.stderr
    with_all = call_script("predict.py", pictures, "--checkpoint", exported / "fp32.onnx", "--json")
    assert json.loads(done.stdout) == json.loads(with_all.stdout)


def test_a_start_with_an_onnx_file_loads_little():
    code = "import cv2, onnxruntime; known = set(sys.modules); import predict; "
    done = run_without(["torch"], code + "print(*set(sys.modules) - known)")
    assert done.returncode == 0, done.stderr
    ours = {name.partition(".")[0] for name in done.stdout.split()}
    assert ours >= {"predict", "recognizer", "picture"}
    assert not ours & {"shutil", "evaluation", "multiprocessing"}


def test_a_checkpoint_without_torch_is_a_sentence(weights, pictures):
    code = "import predict; sys.exit(predict.main(sys.argv[1:]))"
    done = run_without(["torch"], code, pictures, "--checkpoint", weights)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "needs the package torch" in done.stderr and "ONNX" in done.stderr


@pytest.mark.parametrize("name", ["config", "model", "checkpoint"])
def test_says_which_module_is_shadowed(tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.py").write_text("MINE = 'mine'")
    code = "from recognizer import Recognizer; Recognizer.from_checkpoint('x.pt')"
    (tmp_path / "main.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = run_script(str(tmp_path / "main.py"), cwd=tmp_path)
    found = f"`import {name}` finds {tmp_path / name}.py instead of {name}.py of this repository"
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: x.pt: {found}") and "torch.hub.load" in last


def test_classes_narrow_the_readings(weights, pictures, tmp_path):
    (tmp_path / "two.txt").write_text("大人猫", encoding="utf-8")
    arguments = ["predict.py", pictures, "--checkpoint", weights, "--json"]
    arguments += ["--top-k", 10]
    everything = json.loads(call_script(*arguments).stdout)
    narrow = json.loads(call_script(*arguments, "--classes", tmp_path / "two.txt").stdout)
    for whole, part in zip(everything, narrow, strict=True):
        known = {r["character"]: r["probability"] for r in whole["predictions"]}
        both = known["大"] + known["人"]
        assert {r["character"] for r in part["predictions"]} == {"大", "人"}
        for reading in part["predictions"]:
            expected = known[reading["character"]] / both
            assert reading["probability"] == pytest.approx(expected, abs=1e-3)
    done = call_script(*arguments, "--classes", "symbols")
    assert done.returncode == 2 and "knows none of them" in done.stderr


def test_the_network_says_what_is_a_character(weights, pictures, tmp_path):
    logits = np.array([[9.0, 0, 0], [0.5, 0, 0]])
    reject = {"scale": 2.0, "offset": -8.0, "threshold": 0.5}
    scores = character_score(energy(logits), reject)
    assert scores[0] > 0.85 and scores[1] < 0.01
    loaded = checkpoint.load(weights)
    loaded["metrics"]["reject"] = reject | {"scale": 0.0, "offset": 0.0}
    rest = (loaded[key] for key in ("config", "classes", "metrics", "epoch"))
    checkpoint.save(tmp_path / "scored.pt", loaded["model"], *rest)
    done = call_script("predict.py", pictures, "--json", "--checkpoint", tmp_path / "scored.pt")
    assert {(e["character_score"], e["is_character"]) for e in json.loads(done.stdout)} == {
        (0.5, True)
    }
    done = call_script("predict.py", pictures, "--json", "--checkpoint", weights)
    assert all("character_score" not in e for e in json.loads(done.stdout))


def test_says_which_weights_are_read_where_none_are_named(weights, pictures, tmp_path):
    best = tmp_path / "runs" / "train" / "best.pt"
    done = call_script("predict.py", pictures / "0.png", "--top-k", 1, cwd=tmp_path)
    assert "small80.pt: 3926 classes, the shipped weights" in done.stderr.splitlines()[0]
    best.parent.mkdir(parents=True)
    best.write_bytes(weights.read_bytes())
    done = call_script("predict.py", pictures / "0.png", "--top-k", 1, cwd=tmp_path)
    assert done.stderr.splitlines()[0].startswith(f"{best.relative_to(tmp_path)}: 6 classes, val")
    assert done.stdout.split()[-2] in CHARACTERS


@pytest.mark.skipif(sys.platform == "win32", reason="has neither these pipes nor LANG")
def test_pipes_languages_and_names_that_are_not_utf8(weights, pictures):
    if sys.platform == "linux":
        name = os.fsdecode("汉.png".encode("gbk"))
        (pictures / name).write_bytes((pictures / "0.png").read_bytes())
    command = [sys.executable, ROOT / "predict.py", pictures, "--checkpoint", weights, "--json"]
    command = list(map(str, command))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "PYTHONIO"))}
    plain = environment | {"LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=plain, capture_output=True)
    assert done.returncode == 0 and any(c in done.stdout.decode("utf-8") for c in CHARACTERS)
    assert all(len(element["predictions"]) == 3 for element in json.loads(done.stdout))
    done = subprocess.run(f"{shlex.join(command)} | true", shell=True, capture_output=True)
    assert done.stderr.count(b"\n") == 1  # which network reads


def test_debug_writes_what_was_read_and_what_was_left_out(weights, pictures, tmp_path):
    cv2.imencode(".png", several())[1].tofile(pictures / "9.png")
    look = tmp_path / "look"
    done = call_script("predict.py", pictures, "--checkpoint", weights, "--debug", look)
    assert done.returncode == 0, done.stderr
    recognizer = Recognizer.from_checkpoint(weights)
    for name in ("0001_1", "0006_9"):
        path = pictures / f"{name[5:]}.png"
        found, index = recognizer.find(path), recognizer.recognize([path])[0].proposal
        glyph, view = (
            cv2.imdecode(np.fromfile(look / f"{name}_{kind}.png", np.uint8), -1)
            for kind in ("glyph", "view")
        )
        assert np.array_equal(glyph[::4, ::4], found.glyphs[index]) and glyph.shape == (128, 128)
        assert np.array_equal(view, found.view(index)) and (view[..., 1] != view[..., 0]).any()


def test_says_that_there_are_more_characters(pictures):
    path = pictures / "9.png"
    cv2.imencode(".png", several())[1].tofile(path)
    done = call_script("predict.py", pictures, "--checkpoint", DEFAULT_CHECKPOINT, "--json")
    elements = json.loads(done.stdout)
    assert [element["several"] for element in elements] == [False] * 6 + [True]
    *none, (notice,) = [element["notices"] for element in elements]
    assert none == [[]] * 6 and "more characters" in notice
    assert done.returncode == 0 and done.stderr.splitlines()[1:] == [f"{path}: {notice}"]


@pytest.mark.parametrize("together", ["水火", "水火山"])
@pytest.mark.parametrize("axis", [0, 1])
def test_characters_in_a_row_or_column_are_several(together, axis):
    recognizer = Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)
    inks = [cv2.resize(bitmap(one, 1300), (70, 70)) for one in together]
    inks = [cv2.copyMakeBorder(ink, *[6] * 4, cv2.BORDER_CONSTANT, value=255) for ink in inks]
    whole = recognizer.recognize(np.concatenate(inks, axis))[0]
    assert "several characters" in whole.notices[0] and whole.several
    for one in "明炎三亭水":
        alone = recognizer.recognize(bitmap(one, 1300))[0]
        assert alone.notices == [] and not alone.several


def test_named_pictures_are_compared(weights, data, tmp_path):
    """Those of a class that the network lacks are not wrong."""
    shutil.copytree(data / "test" / "U+4E00", tmp_path / "U+4E00")
    shutil.copytree(data / "test" / "U+4E00", tmp_path / "U+732B")
    done = call_script("predict.py", tmp_path, "--checkpoint", weights)
    results = [line.partition("%  ")[2] for line in done.stdout.splitlines()]
    assert set(results[:8]) <= {"right", "wrong, expected 一"} and len(results) == 16
    assert results[8:] == 8 * ["the network does not read 猫"]
    right = f"{results.count('right')} of 8 pictures named U+XXXX are correct"
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == right
    done = call_script("predict.py", tmp_path, "--checkpoint", weights, "--json", "--top-k", 2)
    (element, *_) = json.loads(done.stdout)
    assert element["expected"] == "一" and len(element["predictions"]) == 2


def test_hidden_files_are_skipped(weights, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    done = call_script("predict.py", tmp_path / "empty", "--checkpoint", weights)
    assert done.returncode == 2 and "holds no pictures" in done.stderr
    for name in ("._0.png", "__MACOSX/0.png", ".cache/0.png"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes((pictures / "0.png").read_bytes())
    done = call_script("predict.py", pictures, "--checkpoint", weights, "--json")
    names = [Path(element["path"]).name for element in json.loads(done.stdout)]
    assert names == [f"{i}.png" for i in range(6)] and done.returncode == 0


def test_pictures_of_all_kinds_alone_or_in_a_list(weights, pictures):
    recognizer = Recognizer.from_checkpoint(weights)
    path, array = pictures / "0.png", bitmap("一", 1300)
    expected = recognizer.recognize([path])
    for one in (path, str(path), array, Image.fromarray(array)):
        assert recognizer.recognize(one) == expected
    none, tensor, good = recognizer.recognize([None, torch.zeros(9, 9), array])
    assert "NoneType is no picture" in none.error and "Tensor is no picture" in tensor.error
    assert [good] == expected
    for one in (None, torch.zeros(9, 9)):
        (readings,) = recognizer.recognize(one)
        assert "is no picture" in readings.error


def read_in_child(recognizer: Recognizer, path: Path) -> None:
    assert recognizer.recognize(path)[0][0].character


@pytest.mark.parametrize("kind", ["pt", "onnx"])
def test_a_recognizer_can_be_pickled_and_read_in_a_forked_child(request, weights, pictures, kind):
    path = weights if kind == "pt" else request.getfixturevalue("exported") / "fp32.onnx"
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        recognizer = Recognizer.from_checkpoint(path, classes="2000")
        expected = recognizer.recognize(pictures / "0.png")
        copy = pickle.loads(pickle.dumps(recognizer))
        assert copy.recognize(pictures / "0.png") == expected and copy.classes == recognizer.classes
        if not hasattr(os, "fork"):
            return
        process = multiprocessing.get_context("fork").Process(
            target=read_in_child, args=(recognizer, pictures / "0.png")
        )
        process.start()
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    finally:
        torch.set_num_threads(threads)


def test_twins_are_read_as_the_chinese_character():
    recognizer = Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)
    names = recognizer.classes
    logits = np.zeros((1, len(recognizer.network.classes)), np.float32)
    logits[0, [names.index("-"), names.index("一")]] = 12, 11
    probabilities = softmax(recognizer.select(logits))[0]
    assert names[probabilities.argmax()] == "一" and probabilities[names.index("-")] < 1e-6
    whole = softmax(logits)[0]
    assert probabilities.max() == pytest.approx(whole[names.index("-")] + whole[names.index("一")])
    symbols = Recognizer(recognizer.network, "symbols")
    assert symbols.classes[symbols.select(logits)[0].argmax()] == "-"


def test_proposals_speak_for_a_class_together():
    character, noise = np.zeros(50, np.float32), np.zeros(50, np.float32)
    character[3], noise[:8] = 20, 1
    priors = np.array([4, 0, 0, 0], np.float32)
    assert choose(np.stack([noise, noise, character]), priors[:3]) == 2
    assert choose(np.stack([character, noise, noise]), priors[:3]) == 0
    other = np.zeros(50, np.float32)
    other[4] = 21  # hardly more, and some ink is left out
    assert choose(np.stack([character, other]), priors[:2]) == 0
    assert choose(np.stack([noise, other, character, character]), priors) == 2
    priors[1] = 6
    assert choose(np.stack([noise, other, character, character]), priors) == 1


def test_shipped_weights_read_the_samples():
    done = call_script("predict.py", ROOT / "samples", "--json")
    assert done.returncode == 0, done.stderr
    read = [e["predictions"][0]["character"] == e["expected"] for e in json.loads(done.stdout)]
    assert len(read) == 12 and sum(read) >= 11
