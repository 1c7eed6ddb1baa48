"""The programs in examples/ and hubconf.py read the samples as predict.py does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

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


def export(folder: Path) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    out = folder / "network.onnx"
    given = ["--checkpoint", DEFAULT_CHECKPOINT, "--out", out]
    done = call_script("export.py", *given)
    assert done.returncode == 0, done.stderr
    return out


def readings(lines: str) -> dict[str, str]:
    """Return path and character of lines like `path: character ...`."""
    return {line.split(": ")[0]: line.split(": ")[1][0] for line in lines.splitlines()}


def test_python(site, expected):
    done = run_script("examples/read.py", site / "network.onnx", *SAMPLES)
    assert done.returncode == 0, done.stderr
    assert readings(done.stdout) == expected


def test_cpp(tmp_path, expected):
    compiler = shutil.which("g++") or shutil.which("c++")
    include = Path("/usr/include/opencv4")
    if compiler is None or not (include / "opencv2" / "dnn.hpp").is_file():
        pytest.skip("no compiler, or not apt-get install libopencv-dnn-dev libopencv-imgcodecs-dev")
    source = ROOT / "examples" / "read.cpp"
    command = [compiler, "-std=c++17", "-Wall", str(source), "-o", str(tmp_path / "read")]
    subprocess.run([*command, f"-I{include}", *CPP_FLAGS], check=True)
    loaded = checkpoint.load(DEFAULT_CHECKPOINT)
    (tmp_path / "classes.txt").write_text("".join(loaded["classes"]) + "\n", encoding="utf-8")
    arguments = [export(tmp_path), tmp_path / "classes.txt", loaded["config"]["size"], *SAMPLES]
    done = subprocess.run(
        [str(tmp_path / "read"), *map(str, arguments)], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert readings(done.stdout) == expected


def test_torch_hub(expected):
    model = torch.hub.load(str(ROOT), "small", source="local", verbose=False)
    recognizer = Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)
    for path, character in expected.items():
        with torch.no_grad():
            logits = model(to_input(recognizer.glyph(path)[None]))
        assert model.classes[logits.argmax(1)[0]] == character
    assert model.size == recognizer.network.size and not model.training
    assert [name for name in vars(load_script("hubconf.py")) if name[0] != "_"][1:] == ["small"]
    new = torch.hub.load(str(ROOT), "small", source="local", pretrained=False, num_classes=10)
    assert new(torch.zeros(2, 1, 64, 64)).shape == (2, 10)
    with pytest.raises(ValueError, match="pretrained=False"):
        torch.hub.load(str(ROOT), "small", source="local", num_classes=10)
