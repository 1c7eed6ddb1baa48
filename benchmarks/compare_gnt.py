"""Measure what handwriting looks like in numbers: a column for each set of .gnt files.

    python -m benchmarks.compare_gnt data/synthetic real_files/
    python -m benchmarks.compare_gnt --limit 5000 --markdown A.gnt B.gnt

row        percentiles 2, 50 and 98 over the pictures of
height     rows from the first to the last ink, px
width      columns
pen        pixels with ink for each pixel of the thinned character, px
pen/height the same as a share of the height
coverage   share of the box that is not paper
darkest    grey value of the darkest pixel
median     median grey value of the ink
deviation  standard deviation of the grey values of the ink
ink        below: percentiles of all grey values of the ink together

Paper is 255. Paper around the ink is cut off first, since some collections leave a rim.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.timing import at_least_one, start
from hwdb.record import Record, read_gnt
from synthesis.templates import thin

ROWS = ("height", "width", "pen", "pen/height", "coverage", "darkest", "median", "deviation")
PERCENTILES = (2, 10, 25, 50, 75, 90, 98)


def bitmaps(path: Path, every: int) -> Iterator[np.ndarray]:
    """Yield every so-many-th bitmap of a .gnt file or of all .gnt files below a folder."""
    files = sorted(path.rglob("*.gnt")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path}: holds no .gnt file")
    count = 0
    for file in files:
        with file.open("rb") as stream:
            for item in read_gnt(stream, str(file)):
                if not isinstance(item, Record):
                    raise ValueError(f"{file}, byte {item.offset}: {item.reason}")
                if count % every == 0 and (item.bitmap < 255).any():
                    yield item.bitmap
                count += 1


def measure(bitmap: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Return the values of ROWS and the histogram (256,) of a bitmap's ink."""
    ink = bitmap < 255
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bitmap, ink = bitmap[crop], ink[crop]
    h, w = bitmap.shape
    # Slightly blurred, so that grain does not make side branches; a diagonal step counts 1.1 px.
    body = cv2.GaussianBlur(np.pad(bitmap, 2, constant_values=255), (0, 0), 0.8) < 215
    pen = ink.sum() / max(1.0, 1.1 * thin(body.astype(np.uint8)).sum())
    grey = bitmap[ink]
    values = [h, w, pen, pen / h, ink.mean(), grey.min(), np.median(grey), grey.std()]
    return values, np.bincount(grey, minlength=256)


def column(path: Path, every: int, limit: int) -> list[str]:
    """Return the cells of one set's column."""
    values, histogram = [], np.zeros(256, np.int64)
    for bitmap in bitmaps(path, every):
        value, ink = measure(bitmap)
        values.append(value)
        histogram += ink
        if len(values) == limit:
            break
    if not values:
        raise ValueError(f"{path}: holds no picture with ink")
    cells = [f"{len(values):,}"]
    for name, row in zip(ROWS, np.array(values).T, strict=True):
        digits = {"pen": 1, "pen/height": 3, "coverage": 2}.get(name, 0)
        cells.append(" / ".join(f"{v:.{digits}f}" for v in np.percentile(row, [2, 50, 98])))
    share = np.cumsum(histogram) / histogram.sum()
    cells.append(" / ".join(str(int(np.searchsorted(share, p / 100))) for p in PERCENTILES))
    return cells


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help=".gnt files or folders of them")
    parser.add_argument("--every", type=at_least_one, default=1, help="measure every Nth picture")
    parser.add_argument(
        "--limit", type=at_least_one, default=20000, help="at most so many a column"
    )
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    args = parser.parse_args(argv)
    columns = [column(path, args.every, args.limit) for path in args.paths]
    ink = f"ink {'/'.join(map(str, PERCENTILES))} %"
    table = [["", *(path.name for path in args.paths)]]
    table += [list(row) for row in zip(("pictures", *ROWS, ink), *columns, strict=True)]
    if args.markdown:
        table.insert(1, ["---"] * len(table[0]))
        print("\n".join(f"| {' | '.join(row)} |" for row in table))
    else:
        print("\n".join("  ".join(f"{cell:30s}" for cell in row).rstrip() for row in table))
    return 0


if __name__ == "__main__":
    start(main)
