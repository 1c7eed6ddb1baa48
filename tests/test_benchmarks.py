"""Benchmarks and laboratory: all start, shared timing is right, small ones print their figures."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import ROOT, call_script, write_gnt

from benchmarks import timing
from hwdb.characters import LEVEL1
from hwdb.record import read_gnt
from lab import digits, papers, penwidth, strokes
from picture import to_glyph

SCRIPTS = sorted(
    f"{folder}.{path.stem}"
    for folder in ("benchmarks", "lab")
    for path in (ROOT / folder).glob("*.py")
    if not path.stem.startswith("_") and path.stem != "timing"
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(name).main(["--help"])
    assert stopped.value.code == 0 and "usage:" in capsys.readouterr().out


def test_contestants_take_turns():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    seconds = timing.alternate(contestants, rounds=3)
    assert calls == ["a", "b"] * 4  # the first round is for warming up
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert timing.ratio({"a": [2, 4, 90], "b": [1, 2, 3]}, "a", "b") == 2
    assert timing.rate([1, 2, 50], 10) == 5


def test_figures_as_text_and_json():
    done = call_script("benchmarks/__main__.py", "nonsense")
    assert done.returncode == 2 and "no benchmark nonsense" in done.stderr
    command = [sys.executable, "-m", "benchmarks.load", "--images", "64", "--rounds", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["unit"] for row in rows} == {"images/s"} and all(row["value"] > 0 for row in rows)
    assert any(row["baseline"].startswith("ImageFolder") for row in rows if row["ratio"])


@pytest.mark.parametrize(
    "arguments", [("lab.penwidth", "absent.gnt"), ("benchmarks.load", "--rounds", "0")]
)
def test_bad_input_is_one_sentence(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as stopped:
        timing.start(importlib.import_module(arguments[0]).main)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error
    assert "absent" in error or "expected 1 or more" in error


def test_missing_peers_are_named(trained, data):
    checkpoint = trained / "best.pt"
    done = call_script("benchmarks/peers.py", data / "test", "--checkpoint", checkpoint)
    assert done.returncode == 0, done.stderr
    assert "48 pictures of 6 classes" in done.stdout and "best.pt" in done.stdout
    assert done.stdout.count("PP-OCR") == 3


def test_pens_of_other_widths(trained, tmp_path, capsys):
    samples = str(write_gnt(tmp_path / "1001-c.gnt", 1241))
    assert penwidth.main([samples, "--checkpoint", str(trained / "best.pt"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in rows][:2] == ["original", "pen of 2 px"]
    assert max(row["value"] for row in rows) > 50  # chance is 17 %


@pytest.mark.parametrize("kind", papers.NO_CHARACTERS)
def test_pictures_without_a_character(kind):
    for seed in range(20):
        picture, again = (papers.no_character(kind, np.random.default_rng(seed)) for _ in range(2))
        assert picture.dtype == np.uint8 and picture.min() < 255 == picture.max()
        assert np.array_equal(picture, again)
        to_glyph(picture, 64)


def test_pictures_without_a_character_are_written_by_one_command(tmp_path):
    assert papers.main(["--count", "2", "--seed", "3", "--out", str(tmp_path)]) == 0
    assert {folder.name for folder in tmp_path.iterdir()} == set(papers.NO_CHARACTERS)
    first, second = ((tmp_path / "several" / f"0000{k}.png").read_bytes() for k in range(2))
    assert first != second


def test_stroke_data_is_built_from_its_package(tmp_path, capsys):
    package = {c: {"medians": [[[0, 900], [100, 890], [400, 500]]]} for c in LEVEL1}
    cross = [[[0, 450], [1000, 450]], [[500, 880], [500, 0]]]
    package["十"] = {"medians": cross, "radStrokes": [1]}
    archive, out = tmp_path / "package.tgz", tmp_path / "medians.npz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as stream:
        for character, record in package.items():
            member, data = tarfile.TarInfo(f"package/{character}.json"), json.dumps(record).encode()
            member.size = len(data)
            stream.addfile(member, io.BytesIO(data))
    assert strokes.main([str(archive), "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["strokes"][LEVEL1.index("十")] == 2
        assert arrays["strokes"].sum() == 3756 == len(arrays["points"])
        assert np.unpackbits(arrays["radical"])[:3756].sum() == 1
        x, y = np.cumsum(arrays["steps"].astype(int), axis=1) % 256
        start = arrays["points"][: LEVEL1.index("十")].sum()
        assert x[start : start + 2].tolist() == [0, 250]
        assert y[start : start + 2].tolist() == [112, 112]  # (900 - 450) / 4, to even
    archive.write_bytes(b"no archive")
    assert strokes.main([str(archive), "--out", str(out)]) == 2
    assert "npm pack" in capsys.readouterr().err


def test_scenes_are_read(trained, data, capsys):
    scenes = importlib.import_module("benchmarks.scenes")
    options = ["--checkpoint", str(trained / "best.pt"), "--limit", "3", "--json"]
    scenes.main([str(data / "test"), *options])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 10
    assert all(row["chosen"] <= row["best"] <= row["n"] == 3 for row in rows)


def test_digits_of_the_mnist_test_part(tmp_path):
    images = np.zeros((3, 28, 28), np.uint8)
    images[:, 4:24, 10:16], images[1, 0, 0] = 255, 19  # a speck that becomes paper
    (tmp_path / "data").mkdir()
    (tmp_path / "data/t10k-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
    (tmp_path / "data/t10k-labels-idx1-ubyte").write_bytes(bytes(8) + bytes([7, 1, 0]))
    assert digits.main([str(tmp_path), str(tmp_path / "out")]) == 0
    with open(tmp_path / "out/1-s.gnt", "rb") as stream:
        records = list(read_gnt(stream, "1-s.gnt"))
    assert [record.character for record in records] == list("710")
    assert all(record.bitmap.shape == (20, 6) for record in records)
