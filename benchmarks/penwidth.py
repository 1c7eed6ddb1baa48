"""Read real handwriting written anew with pens of other widths: accuracy against stroke width.

    python -m benchmarks.penwidth icdar13.gnt
    python -m benchmarks.penwidth icdar13.gnt --checkpoint small80.onnx --count 200 --json

Samples of a .gnt file are brought to 200 pixels, thinned to their skeleton (Zhang and Suen 1984),
which says where the pen went, and drawn again with a round pen of 2 to 36 pixels.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks import timing
from config import DEFAULT_CHECKPOINT
from hwdb.record import Record, read_gnt
from recognizer import Recognizer

SIDE = 200  # pixels of the character's longer side
WIDTHS = (2, 4, 6, 8, 10, 14, 20, 28, 36)


def neighbours(ink: np.ndarray) -> list[np.ndarray]:
    """Return the eight neighbours P2...P9 of every pixel, from the upper one clockwise."""
    around = np.pad(ink, 1)
    h, w = ink.shape
    steps = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
    return [around[y : y + h, x : x + w] for y, x in steps]


def skeleton(ink: np.ndarray) -> np.ndarray:
    """Return lines one pixel wide (h,w) bool of ink (h,w) bool."""
    ink = ink.copy()
    while True:
        before = ink.sum()
        for first in (True, False):
            p = neighbours(ink)
            count = np.sum(p, 0)
            turns = sum(~a & b for a, b in zip(p, [*p[1:], p[0]], strict=True))
            up, right, down, left = p[0], p[2], p[4], p[6]
            held = (
                (up & right & down) | (right & down & left)
                if first
                else (up & right & left) | (up & down & left)
            )
            ink &= ~((count >= 2) & (count <= 6) & (turns == 1) & ~held)
        if ink.sum() == before:
            return ink


def trace(bitmap: np.ndarray) -> np.ndarray:
    """Return the skeleton (h,w) bool of a sample (h,w) uint8 at `SIDE` pixels."""
    scale = SIDE / max(bitmap.shape)
    ink = cv2.resize(255 - bitmap, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(ink, (0, 0), 2)  # rough edges would grow twigs
    threshold, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return skeleton(smooth > threshold * 0.8)


def write(lines: np.ndarray, width: int) -> np.ndarray:
    """Return a drawing (h,w) uint8, dark on white, of lines with a round pen."""
    margin = width + 8
    canvas = np.pad(lines, margin).astype(np.uint8)
    distance = cv2.distanceTransform(1 - canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ink = np.clip(width / 2 + 0.5 - distance, 0, 1)
    return (255 * (1 - ink)).astype(np.uint8)


def main(argv: list[str] | None = None) -> int:
    """Print top-1 for every width, and for the samples as they are."""
    parser = timing.parser(__doc__)
    parser.add_argument("gnt", metavar="FILE.gnt", help="real samples")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, metavar="FILE")
    parser.add_argument(
        "--count", type=timing.at_least_one, default=500, metavar="N", help="samples (default: 500)"
    )
    given = parser.parse_args(argv)
    recognizer = Recognizer.from_checkpoint(given.checkpoint)
    with open(given.gnt, "rb") as stream:
        found = [r for r in read_gnt(stream, Path(given.gnt).name) if isinstance(r, Record)]
    known = set(recognizer.classes)
    found = [sample for sample in found if sample.character in known][: given.count]
    if not found:
        raise ValueError(f"{given.gnt}: no sample of a class that the checkpoint knows")
    lines = [trace(sample.bitmap) for sample in found]

    def top1(pictures: list[np.ndarray]) -> float:
        read = recognizer.recognize(pictures, top_k=1)
        pairs = zip(read, found, strict=True)
        return 100 * float(np.mean([bool(r) and r[0].character == s.character for r, s in pairs]))

    rows = [timing.Row("as written", top1([sample.bitmap for sample in found]), "%")]
    rows += [timing.Row(f"pen of {w} px", top1([write(p, w) for p in lines]), "%") for w in WIDTHS]
    timing.report(rows, given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
