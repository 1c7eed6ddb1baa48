"""Read characters as a mouse draws them: thin even strokes on a canvas, nothing like a scan.

    python -m benchmarks.canvas
    python -m benchmarks.canvas --checkpoint small80-int8.onnx --count 1000 --json

Strokes are the printed ones of the stroke data, drawn as anti-aliased lines in three widths, in
both polarities, with three paddings; the pictures go through the recognizer's own preprocessing.
A pixel of random placement a stroke (`--shake`) stands for the hand.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from benchmarks import timing
from config import DEFAULT_CHECKPOINT
from hwdb.characters import LEVEL1
from recognizer import Recognizer
from synthesis.templates import stroke_data

SIDE = 280  # pixels of the character
WIDTHS = (2, 4, 8)
PADDINGS = (4, 40, 160)


def draw(character: str, width: int, padding: int, dark: bool, rng, shake: float) -> np.ndarray:
    """Return a canvas (h,w) uint8 with the character's strokes as lines."""
    canvas = np.full((SIDE + 2 * padding,) * 2, 255, np.uint8)
    for stroke in stroke_data()[character][0]:
        points = np.stack([stroke.real, stroke.imag], 1) * SIDE + rng.normal(0, shake, 2) + padding
        at = np.rint(points * 16).astype(np.int32)
        cv2.polylines(canvas, [at], False, 0, width, cv2.LINE_AA, shift=4)
    return canvas if dark else 255 - canvas


def main(argv: list[str] | None = None) -> int:
    """Print top-1 for every kind of canvas."""
    parser = timing.parser(__doc__)
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, metavar="FILE")
    parser.add_argument(
        "--count", type=timing.at_least_one, default=300, metavar="N", help="characters a kind"
    )
    parser.add_argument("--shake", type=float, default=4.0, help="pixels, standard deviation")
    given = parser.parse_args(argv)
    recognizer = Recognizer.from_checkpoint(given.checkpoint)
    characters = np.random.default_rng(1).permutation(list(LEVEL1))[: given.count]
    rows, shares = [], []
    for width, dark, padding in itertools.product(WIDTHS, (True, False), PADDINGS):
        rng = np.random.default_rng([width, padding])
        glyphs = np.stack(
            [recognizer.glyph(draw(c, width, padding, dark, rng, given.shake)) for c in characters]
        )
        best = recognizer.read(glyphs, top_k=1)
        right = [r[0].character == c for r, c in zip(best, characters, strict=True)]
        shares.append(float(np.mean(right)))
        ink = "dark on light" if dark else "light on dark"
        rows.append(timing.Row(f"pen {width} px, padding {padding}, {ink}", 100 * shares[-1], "%"))
    mean = 100 * float(np.mean(shares))
    rows.append(timing.Row("all", mean, "%"))
    timing.report(rows, given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
