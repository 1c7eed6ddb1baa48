"""Time process_gnt.py against two simple converters in the same run.

    python -m benchmarks.convert                       # on files made of random strokes
    python -m benchmarks.convert --data FOLDER --json  # on your own .gnt files

    usual   the serial loop of most repositories: np.fromfile for header and bitmap,
            PIL.Image.fromarray(...).convert("RGB").save(...)
    imwrite the same loop with cv2.imwrite, by as many processes, one file at a time

They run alternately, `--repeat` times; the median of each is reported. process_gnt.py is timed as a
whole process; imwrite without the start-up of Python.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.timing import ROOT, at_least_one, start
from hwdb.characters import LEVEL1, folder_name
from hwdb.record import write_record


def make_files(folder: Path, writers: int, characters: int) -> None:
    """Write .gnt files of random anti-aliased strokes about the size and ink of HWDB1.1."""
    for writer in range(writers):
        rng = np.random.default_rng(writer)
        with (folder / f"{1001 + writer}-c.gnt").open("wb") as stream:
            for character in LEVEL1[:characters]:
                width, height = (int(n) for n in rng.normal((66, 68), 9).clip(30, 110))
                ink = np.zeros((height, width), np.uint8)
                for _ in range(int(rng.integers(4, 12))):
                    begin, end = rng.integers(0, (width, height), (2, 2)).tolist()
                    cv2.line(ink, begin, end, int(rng.integers(120, 230)), 3, cv2.LINE_AA)
                ink = cv2.add(ink, rng.integers(0, 30, ink.shape, np.uint8) * (ink > 0))
                write_record(stream, character, 255 - ink)


def bitmaps(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield characters and bitmaps as most repositories read them."""
    with path.open("rb") as stream:
        while (header := np.fromfile(stream, np.uint8, 10)).size:
            size = int(header[:4].view("<u4")[0])
            character = header[4:6].tobytes().rstrip(b"\0").decode("gb18030")
            width, height = header[6:10].view("<u2").tolist()
            yield character, np.fromfile(stream, np.uint8, size - 10).reshape(height, width)


def usual(files: list[Path], out: Path) -> None:
    """Convert as most repositories do."""
    for path in files:
        for number, (character, bitmap) in enumerate(bitmaps(path)):
            folder = out / folder_name(character)
            folder.mkdir(exist_ok=True)
            Image.fromarray(bitmap).convert("RGB").save(folder / f"{path.stem}_{number}.png")


def _imwrite_file(path: Path, out: Path) -> None:
    for number, (character, bitmap) in enumerate(bitmaps(path)):
        folder = out / folder_name(character)
        folder.mkdir(exist_ok=True)
        cv2.imwrite(f"{folder}/{path.stem}_{number}.png", bitmap)


def imwrite(files: list[Path], out: Path, workers: int) -> None:
    """Convert as one does who knows OpenCV and multiprocessing."""
    with multiprocessing.Pool(workers) as pool:
        pool.starmap(_imwrite_file, [(path, out) for path in files], chunksize=1)


def process_gnt(files: list[Path], out: Path, workers: int) -> None:
    """Convert with the script of this repository."""
    command = [sys.executable, str(ROOT / "process_gnt.py"), *map(str, files)]
    command += ["--out", str(out), "--split", "train", "--workers", str(workers)]
    subprocess.run(command, check=True, capture_output=True)


def measure(files: list[Path], work: Path, workers: int, repeat: int) -> dict:
    """Return images per second of all three, each timed `repeat` times in turn."""
    ways = {
        "usual": lambda out: usual(files, out),
        "imwrite": lambda out: imwrite(files, out, workers),
        "process_gnt": lambda out: process_gnt(files, out, workers),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, convert in ways.items():
            out = work / name
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            begin = time.perf_counter()
            convert(out)
            seconds[name].append(time.perf_counter() - begin)
    images = [path.stat().st_size for path in (work / "process_gnt").rglob("*.png")]
    plain = [path.stat().st_size for path in (work / "imwrite").rglob("*.png")]
    rate = {name: len(images) / statistics.median(times) for name, times in seconds.items()}
    return {
        "images": len(images),
        "workers": workers,
        "images_per_second": {name: round(value) for name, value in rate.items()},
        "times_usual": round(rate["process_gnt"] / rate["usual"], 2),
        "times_imwrite": round(rate["process_gnt"] / rate["imwrite"], 2),
        "size_over_imwrite": round(sum(images) / sum(plain), 3),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, metavar="PATH", help=".gnt file or folder of them")
    parser.add_argument(
        "--writers", type=at_least_one, default=16, help="number of files to make (default: 16)"
    )
    parser.add_argument(
        "--characters", type=at_least_one, default=3755, help="characters per file (default: 3755)"
    )
    parser.add_argument("--workers", type=at_least_one, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--repeat", type=at_least_one, default=3, help="runs per converter (default: 3)"
    )
    parser.add_argument("--work", type=Path, help="output folder (default: /dev/shm)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(argv)
    # A disk's file system may take longer to create a file than all the rest, for every contestant.
    if options.work is None and os.access("/dev/shm", os.W_OK):
        options.work = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        if options.data is None:
            make_files(work, options.writers, options.characters)
        data = options.data or work
        files = [data] if data.is_file() else sorted(data.glob("**/*.gnt"))
        if not files:
            raise ValueError(f"no .gnt file in {data}")
        figures = measure(files, work, options.workers, options.repeat)
    if options.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures["images_per_second"].items():
        print(f"{name:12s} {value:9,} images/s")
    print(f"process_gnt: {figures['times_usual']} x the usual converter")
    print(
        f"process_gnt: {figures['times_imwrite']} x cv2.imwrite with {figures['workers']} processes"
    )
    print(f"process_gnt: {figures['size_over_imwrite']} x the size of cv2.imwrite")
    return 0


if __name__ == "__main__":
    start(main)
