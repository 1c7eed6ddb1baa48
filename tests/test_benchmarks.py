"""The benchmarks: all start, the shared timing is right, a small one prints its figures."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time

import pytest
from conftest import CHARACTERS, ROOT, call_script

from benchmarks import timing

NAMES = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if not p.stem.startswith("_"))
SCRIPTS = [name for name in NAMES if name != "timing"]


def benchmark(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a benchmark as a user does."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
    assert stopped.value.code == 0 and "usage:" in capsys.readouterr().out


def test_contestants_take_turns():
    calls = []
    seconds = timing.alternate(
        {
            "slow": lambda: (calls.append("slow"), time.sleep(0.02)),
            "fast": lambda: (calls.append("fast"), time.sleep(0.005)),
        },
        rounds=3,
    )
    assert calls == ["slow", "fast"] * 4  # one to warm up
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert timing.ratio(seconds, "slow", "fast") > 1.5
    assert timing.ratio({"a": [2, 4, 90], "b": [1, 2, 3]}, "a", "b") == 2
    assert timing.rate([1, 2, 50], 10) == 5


def test_figures_as_text_and_json():
    done = call_script("benchmarks/__main__.py", "nonsense")
    assert done.returncode == 2 and "no benchmark nonsense" in done.stderr
    done = benchmark("load", "--images", "64", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["unit"] for row in rows} == {"images/s"} and all(row["value"] > 0 for row in rows)
    ratios = [row for row in rows if row["ratio"] is not None]
    assert len(ratios) == 3 and all(row["baseline"].startswith("ImageFolder") for row in ratios)


def test_value_of_the_parts(data, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    classes.write_text(CHARACTERS, encoding="utf-8")
    settings = ["--classes", classes, "--samples", 12, "--epochs", 12, "--workers", 1]
    arguments = [data / "test", *settings, "--only", "default", "small 0.2", "--json"]
    assert importlib.import_module("benchmarks.value").main(list(map(str, arguments))) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [row["what"].partition(",")[0] for row in rows]
    assert names == ["default", "default", "small 0.2", "small 0.2"]
    assert all(row["value"] > 40 for row in rows)  # chance is 17 %


@pytest.mark.parametrize(
    "arguments",
    [
        ("penwidth", "absent.gnt"),
        ("value", "absent"),
        ("latency", "--teacher", "absent.onnx", "--rounds", "1"),
        ("load", "--rounds", "0"),
    ],
)
def test_bad_input_is_one_sentence(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as stopped:
        timing.start(importlib.import_module(f"benchmarks.{arguments[0]}").main)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    assert "absent" in said or "expected 1 or more" in said


def test_missing_peers_are_said(trained, data):
    checkpoint = trained / "best.pt"
    done = call_script("benchmarks/peers.py", data / "test", "--checkpoint", checkpoint)
    assert done.returncode == 0, done.stderr
    assert "48 pictures of 6 classes" in done.stdout and "best.pt" in done.stdout
    assert done.stdout.count("PP-OCR") == 3


def test_scenes_are_read_beside_a_peer(trained, data, monkeypatch, capsys):
    scenes = importlib.import_module("benchmarks.scenes")
    always = [lambda picture, c=c: [c] for c in ("?", CHARACTERS[0], CHARACTERS[1])]
    monkeypatch.setattr(scenes, "peers", lambda classes: always)
    monkeypatch.setattr(scenes, "KINDS", ("clean", "several neighbours"))
    arguments = [str(data / "test"), "--checkpoint", str(trained / "best.pt")]
    assert scenes.main([*arguments, "--json"]) == 0
    rows = {row["what"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert rows["clean, PP-OCRv6 small"] == rows["several neighbours, PP-OCRv6 small"]
    assert rows["clean, PP-OCRv6 small"] == pytest.approx(100 / 6)  # one class of six
    assert rows["clean, refused 0"] > 40
    monkeypatch.setattr(scenes, "PAGES", {"page": (140, 0.3), "page, pencil": (12, 0)})
    monkeypatch.setattr(scenes, "EMPTY", ((160,), (1, 8), (75,), (0, 3), range(2)))
    assert scenes.main([*arguments, "--pages", "--limit", "3", "--json"]) == 0
    rows = {row["what"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert rows["page, refused 0"] > 30 and rows["page, pencil, refused 0"] > 30
    assert rows["empty, JPEG quality 75, 0 of 8 read; refused"] == 100
    assert rows["page, empty sheets refused"] == rows["page, pencil, empty sheets refused"] == 100
    monkeypatch.setattr(scenes, "peers", lambda classes: [])
    assert scenes.main([*arguments, "--limit", "2"]) == 0
    said = capsys.readouterr()
    assert "not installed" in said.err and "PP-OCR" not in said.out
