"""predict.py and the Recognizer as their users meet them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CHARACTERS, ROOT, bitmap, call_script, run_script

from recognizer import Recognizer


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
    assert "no picture by its name: notes.txt" in table.stderr
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


def test_same_labels_as_in_training(weights, data):
    recognizer = Recognizer.from_checkpoint(weights)
    files = sorted((data / "train").glob("*/*.png"))
    right = sum(
        recognizer.recognize([file], top_k=1)[0][0].character == chr(int(file.parent.name[2:], 16))
        for file in files
    )
    assert right / len(files) > 0.4  # chance is 0.17; a shuffled label map would show


def test_array_and_file_and_batch_read_alike(weights, pictures):
    recognizer = Recognizer.from_checkpoint(weights)
    file = pictures / "0.png"
    array = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    one, two, three = recognizer.recognize([file, array, str(file)], top_k=2)
    assert one == two == three
    assert recognizer.recognize([]) == []


def test_bad_pictures_get_a_sentence_each_and_the_others_are_read(weights, pictures):
    blank = pictures / "blank.png"
    cv2.imencode(".png", np.full((50, 50), 255, np.uint8))[1].tofile(blank)
    (pictures / "text.png").write_text("no picture")
    missing = pictures / "missing.png"
    done = call_script("predict.py", pictures, missing, "--checkpoint", weights, "--json")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    elements = json.loads(done.stdout)
    bad = [e for e in elements if "error" in e]
    assert len(elements) == 9 and [e["path"] for e in bad] == list(
        map(str, (blank, pictures / "text.png", missing))
    )
    assert all("predictions" not in e for e in bad)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert "blank" in lines[0] and "not a picture" in lines[1] and "no such file" in lines[2]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 or UTF-16 there")
def test_names_that_are_not_utf8(weights, pictures, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for name in ("汉.png".encode("gbk"), b"z.png"):
        (folder / os.fsdecode(name)).write_bytes((pictures / "0.png").read_bytes())
    done = run_script("predict.py", folder, "--checkpoint", weights, "--json")
    assert done.returncode == 0, done.stderr
    assert [len(element["predictions"]) > 1 for element in json.loads(done.stdout)] == [True, True]


def test_standard_input(weights, pictures, monkeypatch):
    picture = (pictures / "0.png").read_bytes()
    done = run_script("predict.py", "-", "--checkpoint", weights, "--json",
                      input=picture, text=False, encoding=None)  # fmt: skip
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["path"] == "-"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    done = call_script("predict.py", "-", "--checkpoint", weights)
    assert done.returncode == 2 and "empty" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x.png", "--checkpoint", "nowhere.pt"], "no such checkpoint"),
        (["x.png", "--checkpoint", "nowhere.onnx"], "no such file"),
        (["x.png", "--checkpoint", __file__], "not a readable checkpoint"),
        (["x.png", "--top-k", "0"], "--top-k"),
    ],
)
def test_bad_arguments(arguments, said):
    done = call_script("predict.py", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and said in done.stderr


def test_empty_folder(weights, tmp_path):
    done = call_script("predict.py", tmp_path, "--checkpoint", weights)
    assert done.returncode == 2 and "holds no pictures" in done.stderr


def test_imports_little():
    code = "import predict, recognizer, sys; print('torchvision' in sys.modules, "
    code += "'tensorboard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_shipped_weights_read_the_samples():
    done = call_script("predict.py", ROOT / "samples", "--json")
    assert done.returncode == 0, done.stderr
    elements = json.loads(done.stdout)
    truths = [chr(int(Path(e["path"]).stem[2:], 16)) for e in elements]
    best = [e["predictions"][0]["character"] for e in elements]
    assert len(elements) == 12
    assert sum(t == b for t, b in zip(truths, best, strict=True)) >= 11
