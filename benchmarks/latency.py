"""Time a checkpoint and its exports on one CPU thread, compared with another network.

    python -m benchmarks.latency
    python -m benchmarks.latency --checkpoint runs/train/best.pt --teacher teacher.onnx

Input to logits, one glyph at a time (latency) and 64 at a time (throughput); then pictures of
128 x 128 pixels to logits, with picture.to_glyph and the fp32 file, and with the file that takes
pictures. Processor time is measured, because wall-clock time includes other programs; candidates
run alternately.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

import export
from benchmarks.timing import Row, alternate, at_least_one, parser, ratio, report, samples, start
from config import DEFAULT_CHECKPOINT
from picture import to_glyph
from recognizer import load_network, open_session

REPEAT = 40  # calls in a row: one is too short for the clock, and finds the caches cold
PICTURE = 128  # pixels


def files(given: Path | None, folder: Path) -> dict[str, Path]:
    """Return name and path of the checkpoint and its exports, which are made in a folder."""
    source = given or Path(DEFAULT_CHECKPOINT)
    options = {name: ["--precision", name] for name in ("fp32", "fp16", "int8")}
    options["picture"] = ["--input", "picture"]
    made = {"checkpoint": source}
    for name, chosen in options.items():
        made[name] = folder / f"{name}.onnx"
        with contextlib.redirect_stdout(sys.stderr):
            if export.main(["--checkpoint", str(source), *chosen, "--out", str(made[name])]):
                raise ValueError(f"export.py {' '.join(chosen)} failed")
    return made


def reader(path: Path, batch: int) -> Callable[[], object]:
    """Return a function that reads a batch with a checkpoint, or any ONNX network of one input."""
    repeat = REPEAT if batch == 1 else 1
    if path.suffix != ".onnx":
        network = load_network(path)
        x = torch.rand(batch, 1, network.size, network.size)
        return lambda: [network.logits(x) for _ in range(repeat)]
    session = open_session(path)
    entry = session.get_inputs()[0]
    if isinstance(entry.shape[0], int) or not all(isinstance(n, int) for n in entry.shape[1:]):
        raise ValueError(f"{path}: input of shape {entry.shape}, expected (N, 1, S, S) with N free")
    x = np.random.default_rng(0).random([batch, *entry.shape[1:]], np.float32)
    return lambda: [session.run(None, {entry.name: x}) for _ in range(repeat)]


def picture_readers(paths: dict[str, Path]) -> dict[str, Callable[[], object]]:
    """Return two ways from pictures to logits, one picture at a time."""
    sides = (PICTURE, PICTURE)
    scans = [cv2.resize(scan, sides, interpolation=cv2.INTER_AREA) for _, scan in samples(REPEAT)]
    network, session = load_network(paths["fp32"]), open_session(paths["picture"])

    def ours(scan: np.ndarray) -> np.ndarray:
        glyph = to_glyph(scan, network.size)
        return network.logits(glyph[None, None].astype(np.float32) / 255)

    return {
        "pictures, picture/ and fp32": lambda: [ours(scan) for scan in scans],
        "pictures, --input picture": lambda: [
            session.run(["logits"], {"picture": scan[None, None]}) for scan in scans
        ],
    }


def measure(given: Path | None, teacher: Path | None, rounds: int) -> list[Row]:
    """Return the rows of all contestants."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows, baseline = [], "teacher" if teacher else "checkpoint"

    def race(contestants: dict, rounds: int, each: int, kind: str = "") -> None:
        seconds = alternate(contestants, rounds, clock=time.process_time)
        for name, times in seconds.items():
            gain = None
            if baseline in seconds and name != baseline:
                gain = ratio(seconds, baseline, name)
            value = 1e3 * statistics.median(times) / each
            rows.append(Row(name + kind, value, "ms", gain, f"as fast as {baseline}"))

    with tempfile.TemporaryDirectory() as folder:
        paths = files(given, Path(folder))
        pictures = picture_readers(paths)
        del paths["picture"]
        if teacher:
            paths["teacher"] = teacher
        one, many = ({name: reader(p, n) for name, p in paths.items()} for n in (1, 64))
        race(one, rounds, REPEAT, ", one at a time")
        race(many, max(3, rounds // 5), 64, ", 64 at a time")
        race(pictures, rounds, REPEAT)
        for name, path in paths.items():
            rows.append(Row(f"{name}, size of the file", os.path.getsize(path) / 1e6, "MB"))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print the rows."""
    options = parser(__doc__)
    options.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="checkpoint (default: shipped weights)"
    )
    options.add_argument(
        "--teacher", type=Path, metavar="FILE", help="ONNX network to compare with"
    )
    options.add_argument(
        "--rounds", type=at_least_one, default=31, help="rounds per candidate (default: 31)"
    )
    given = options.parse_args(argv)
    report(measure(given.checkpoint, given.teacher, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    start(main)
