"""Redraw real handwriting with pens of different widths and measure top-1 for each width.

    python -m lab.penwidth icdar13.gnt
    python -m lab.penwidth icdar13.gnt --checkpoint small80.onnx --count 200 --json

Samples of a .gnt file are scaled to 200 pixels, thinned to their skeleton (Zhang and Suen 1984) and
redrawn with a round pen of 2 to 36 pixels.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks import timing
from config import DEFAULT_CHECKPOINT
from hwdb.record import Record, read_gnt
from recognizer import Recognizer
from synthesis.fonts import thin

SIDE = 200  # px of the character's longer side
WIDTHS = (2, 4, 6, 8, 10, 14, 20, 28, 36)


def trace(bitmap: np.ndarray) -> np.ndarray:
    """Return the skeleton (h,w) uint8 of 0 and 1 of a sample (h,w) uint8 at `SIDE` pixels."""
    scale = SIDE / max(bitmap.shape)
    ink = cv2.resize(255 - bitmap, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(ink, (0, 0), 2)  # rough edges would grow side branches
    threshold, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return thin((smooth > threshold * 0.8).astype(np.uint8))


def write(lines: np.ndarray, width: int) -> np.ndarray:
    """Draw a skeleton with a round pen; returns (h,w) uint8, 255 = paper."""
    canvas = np.pad(lines, width + 8)
    distance = cv2.distanceTransform(1 - canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (255 * (1 - np.clip(width / 2 + 0.5 - distance, 0, 1))).astype(np.uint8)


def main(argv: list[str] | None = None) -> int:
    """Print top-1 for every width, and for the original samples."""
    parser = timing.parser(__doc__)
    parser.add_argument("gnt", metavar="FILE.gnt", help="real samples")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, metavar="FILE")
    parser.add_argument(
        "--count", type=timing.at_least_one, default=500, help="number of samples (default: 500)"
    )
    given = parser.parse_args(argv)
    recognizer = Recognizer.from_checkpoint(given.checkpoint)
    with open(given.gnt, "rb") as stream:
        found = [r for r in read_gnt(stream, Path(given.gnt).name) if isinstance(r, Record)]
    found = [r for r in found if r.character in set(recognizer.classes)][: given.count]
    if not found:
        raise ValueError(f"{given.gnt}: no sample of a class of {given.checkpoint}")
    lines = [trace(sample.bitmap) for sample in found]

    def top1(pictures: list[np.ndarray]) -> float:
        read = recognizer.recognize(pictures, top_k=1)
        pairs = zip(read, found, strict=True)
        return 100 * float(np.mean([bool(r) and r[0].character == s.character for r, s in pairs]))

    rows = [timing.Row("original", top1([sample.bitmap for sample in found]), "%")]
    rows += [timing.Row(f"pen of {w} px", top1([write(p, w) for p in lines]), "%") for w in WIDTHS]
    timing.report(rows, given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
