"""The programs in examples/ and hubconf.py read the samples as predict.py does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, call_script, load_script, run_script

import checkpoint
from config import DEFAULT_CHECKPOINT
from model import to_input
from recognizer import Recognizer

SAMPLES = sorted((ROOT / "samples").glob("*.png"))  # scans: photos need picture/
CPP_FLAGS = ["-lopencv_dnn", "-lopencv_imgcodecs", "-lopencv_imgproc", "-lopencv_core"]


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """Return the best reading of every sample, by predict.py."""
    done = call_script("predict.py", *SAMPLES, "--checkpoint", DEFAULT_CHECKPOINT, "--json")
    elements = json.loads(done.stdout)
    return {e["path"]: e["predictions"][0]["character"] for e in elements}


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory) -> dict[str, str]:
    """Pictures that cannot be read, and what is said of them."""
    folder = tmp_path_factory.mktemp("unreadable")
    cv2.imwrite(str(folder / "blank.png"), np.full((50, 70), 200, np.uint8))
    (folder / "text.png").write_text("not a picture")
    return {
        str(folder / "blank.png"): "no ink was found; photos need predict.py",
        str(folder / "text.png"): "no such file, or not a picture that OpenCV reads",
        str(folder / "missing.png"): "no such file, or not a picture that OpenCV reads",
    }


def reads_samples(command: list, expected: dict[str, str], unreadable: dict[str, str]) -> None:
    """Assert that a program reads the samples, and says why it does not read other pictures."""

    def run(*pictures: object) -> subprocess.CompletedProcess:
        given = [str(part) for part in (*command, *pictures)]
        return subprocess.run(given, capture_output=True, encoding="utf-8", timeout=120)

    done = run(*unreadable, *SAMPLES)
    lines = [line.split(": ") for line in done.stdout.splitlines()]
    assert {name: reading[0] for name, reading in lines} == expected
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{name}: {why}" for name, why in unreadable.items()]
    done = run(SAMPLES[0])
    assert done.returncode == 0 and done.stderr == ""
    done = run()
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_python(site, expected, unreadable, tmp_path):
    program = ROOT / "examples" / "read.py"
    reads_samples([sys.executable, program, site / "network.onnx"], expected, unreadable)
    opaque = cv2.cvtColor(cv2.imread(str(SAMPLES[1])), cv2.COLOR_BGR2BGRA)
    cv2.imwrite(str(tmp_path / "opaque.png"), opaque.astype(np.uint16) * 257)
    done = run_script("examples/read.py", site / "network.onnx", tmp_path / "opaque.png")
    assert f": {expected[str(SAMPLES[1])]} " in done.stdout
    for network in ("absent.onnx", SAMPLES[0]):
        done = run_script("examples/read.py", network, SAMPLES[0])
        assert done.returncode == 2 and "not a file of export.py" in done.stderr


def test_cpp(tmp_path, monkeypatch, expected, unreadable):
    compiler = shutil.which("g++") or shutil.which("c++")
    include = Path("/usr/include/opencv4")
    if compiler is None or not (include / "opencv2" / "dnn.hpp").is_file():
        pytest.skip("no compiler, or not apt-get install libopencv-dnn-dev libopencv-imgcodecs-dev")
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "SILENT")
    names = "read", "network.onnx", "classes.txt"
    program, network, classes = (tmp_path / name for name in names)
    source = ROOT / "examples" / "read.cpp"
    command = [compiler, "-std=c++17", "-Wall", source, "-o", program, f"-I{include}", *CPP_FLAGS]
    subprocess.run(list(map(str, command)), check=True)
    loaded = checkpoint.load(DEFAULT_CHECKPOINT)
    classes.write_text("".join(loaded["classes"]) + "\n", encoding="utf-8")
    done = call_script("export.py", "--checkpoint", DEFAULT_CHECKPOINT, "--out", network)
    assert done.returncode == 0, done.stderr
    reads_samples([program, network, classes, loaded["config"]["size"]], expected, unreadable)
    for arguments in ([source, classes, 80], [network, "absent", 80], [network, classes, "x"]):
        given = list(map(str, (program, *arguments, SAMPLES[0])))
        done = subprocess.run(given, capture_output=True, encoding="utf-8")
        assert done.returncode == 2 and done.stderr.count("\n") == 1


HUB = """
import torch
if {before}:
    import config, model
network = torch.hub.load({repository!r}, "small", source="local", verbose=False)
assert network(torch.zeros(1, 1, 80, 80)).shape == (1, len(network.classes))
import config, model
assert config.MINE == model.MINE == "mine"
"""


@pytest.mark.parametrize("before", [True, False])
def test_torch_hub_beside_modules_of_the_same_names(tmp_path, monkeypatch, before):
    for name in ("config.py", "model.py"):
        (tmp_path / name).write_text("MINE = 'mine'")
    (tmp_path / "main.py").write_text(HUB.format(before=before, repository=str(ROOT)))
    monkeypatch.setenv("PYTHONPATH", "")
    done = run_script(str(tmp_path / "main.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_torch_hub(expected):
    model = torch.hub.load(str(ROOT), "small", source="local", verbose=False)
    recognizer = Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)
    for path, character in expected.items():
        with torch.no_grad():
            logits = model(to_input(recognizer.find(path).glyphs[:1]))
        assert model.classes[logits.argmax(1)[0]] == character
    assert model.size == recognizer.network.size and not model.training
    entries = vars(load_script("hubconf.py")).items()
    assert [name for name, entry in entries if callable(entry) and name[0] != "_"] == ["small"]
