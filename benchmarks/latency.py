"""Time the reading of prepared glyphs on one thread: checkpoint, exports, and a teacher.

    python -m benchmarks.latency
    python -m benchmarks.latency --checkpoint runs/train/best.pt --teacher teacher.onnx

One glyph at a time (latency) and 64 at a time (throughput), input to logits, all files in the same
run; the ONNX files are made by export.py. `preparation` is picture.to_glyph, and what takes its
place in a file that takes pictures, in processor time, the best of the rounds: scans of 128 x 128
pixels, dark on light as they are, light on dark, whose contrast is stretched, and on grey, whose
paper is estimated, too; in turn with the fp32 network, a fixed piece of work to compare with.
"""

from __future__ import annotations

import contextlib
import os
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


def files(given: Path | None, folder: Path) -> dict[str, Path]:
    """Return name and path of the checkpoint and its exports."""
    source = given or Path(DEFAULT_CHECKPOINT)
    made = {"checkpoint": source}
    for precision in ("fp32", "fp16", "int8"):
        made[precision] = folder / f"{precision}.onnx"
        arguments = ["--checkpoint", str(source), "--precision", precision]
        with contextlib.redirect_stdout(sys.stderr):
            if export.main([*arguments, "--out", str(made[precision])]):
                raise ValueError(f"export.py --precision {precision} failed")
    return made


def reader(path: Path, batch: int) -> Callable[[], object]:
    """Return a function that reads a batch with a checkpoint, or any ONNX network of one input."""
    repeat = REPEAT if batch == 1 else 1
    if path.suffix != ".onnx":
        network = load_network(path)
        x = torch.rand(batch, 1, network.size, network.size)

        @torch.inference_mode()
        def read() -> None:
            for _ in range(repeat):
                network.logits(x)

        return read
    session = open_session(path)
    entry = session.get_inputs()[0]
    if isinstance(entry.shape[0], int) or not all(isinstance(n, int) for n in entry.shape[1:]):
        raise ValueError(f"{path}: input of shape {entry.shape}, expected (N, 1, S, S) with N free")
    shape = [batch, *entry.shape[1:]]
    glyphs = {entry.name: np.random.default_rng(0).random(shape, np.float32)}

    def run() -> None:
        for _ in range(repeat):
            session.run(None, glyphs)

    return run


def measure(given: Path | None, teacher: Path | None, rounds: int) -> list[Row]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = files(given, Path(folder))
        if teacher:
            paths["teacher"] = teacher
        baseline = "teacher" if teacher else "checkpoint"
        for batch, kind in ((1, "one at a time"), (64, "64 at a time")):
            contestants = {name: reader(path, batch) for name, path in paths.items()}
            few = rounds if batch == 1 else max(3, rounds // 5)
            seconds = alternate(contestants, few)
            each = REPEAT if batch == 1 else batch
            for name, times in seconds.items():
                gain = None if name == baseline else ratio(seconds, baseline, name)
                value = 1e3 * float(np.median(times)) / each
                rows.append(Row(f"{name}, {kind}", value, "ms", gain, f"as fast as {baseline}"))
        for name, path in paths.items():
            rows.append(Row(f"{name}, size of the file", os.path.getsize(path) / 1e6, "MB"))
        size = load_network(paths["checkpoint"]).size
        whole = Path(folder) / "picture.onnx"
        arguments = ["--checkpoint", str(given or DEFAULT_CHECKPOINT), "--input", "picture"]
        with contextlib.redirect_stdout(sys.stderr):
            export.main([*arguments, "--out", str(whole)])
        scans = [
            cv2.resize(bitmap, (128, 128), interpolation=cv2.INTER_NEAREST)
            for _, bitmap in samples(REPEAT)
        ]
        network = reader(paths["fp32"], 1)
        light, grey = [255 - scan for scan in scans], [scan // 2 + 100 for scan in scans]
        for kind, pictures in (("dark", scans), ("light", light), ("grey", grey)):
            contestants = {
                "network": network,
                "whole": picture_reader(whole, pictures),
                "picture/": lambda given=pictures: [to_glyph(picture, size) for picture in given],
            }
            seconds = alternate(contestants, rounds, clock=time.process_time)
            each = {name: 1e3 * min(times) / REPEAT for name, times in seconds.items()}
            each["in the file"] = each["whole"] - each["network"]
            rows += [
                Row(
                    f"preparation of a {kind} scan, {name}",
                    each[name],
                    "ms",
                    each[name] / each["network"],
                    "the network",
                )
                for name in ("picture/", "in the file")
            ]
    return rows


def picture_reader(path: Path, pictures: list[np.ndarray]) -> Callable[[], object]:
    """Return a function that reads pictures, one at a time."""
    session = open_session(path)
    return lambda: [session.run(["logits"], {"picture": p[None, None]}) for p in pictures]


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--checkpoint", type=Path, metavar="FILE", help="default: shipped weights")
    options.add_argument(
        "--teacher", type=Path, metavar="FILE", help="ONNX network to compare with"
    )
    options.add_argument("--rounds", type=at_least_one, default=31, help="of each (default: 31)")
    given = options.parse_args(argv)
    report(measure(given.checkpoint, given.teacher, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    start(main)
