"""Take real handwriting apart: distorted copies and collages, for a teacher to say what they are.

    python -m training.recombine hwdb63/train scans --count 60000 --seed 1 --out data/recombined
    python train.py --teacher FILE.onnx --unlabelled data/recombined ...

Real samples of a few classes teach a student those classes. Their strokes, ink and joins are those
of all characters, though: bent, mirrored and put together anew they are shapes that no synthesizer
draws, and a teacher's logits say what to make of them. Half of the pictures are one sample,
distorted far more than training does; half are two or three, each squeezed into a part of the
square. The character of the records means nothing.
"""

import argparse
import math
import sys
from pathlib import Path

import cv2
import numpy as np

from dataset import scan, stream_glyphs
from hwdb.characters import LEVEL1
from hwdb.record import write_record
from jobs.command import check_range, command, progress
from jobs.files import replacing

SIDE = 96
MOST_GROWTH = 1.3  # of a part that takes its place in a collage
FAINT = 20  # ink below: what bending leaves of edges, and JPEG's noise
PULLS = 5  # side of the grid of pulls that bends a picture
# Parts of the unit square (left, top, right, bottom), as components of characters share it.
LAYOUTS = (
    ((0, 0, 0.45, 1), (0.42, 0, 1, 1)),
    ((0, 0, 0.6, 1), (0.57, 0, 1, 1)),
    ((0, 0, 1, 0.45), (0, 0.42, 1, 1)),
    ((0, 0, 1, 0.6), (0, 0.57, 1, 1)),
    ((0, 0, 1, 1), (0.3, 0.35, 0.95, 0.95)),
    ((0, 0, 0.36, 1), (0.33, 0, 0.69, 1), (0.66, 0, 1, 1)),
    ((0, 0, 1, 0.45), (0, 0.42, 0.5, 1), (0.5, 0.42, 1, 1)),
)


def distort(ink: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Turn, shear, stretch, bend and now and then mirror ink (S,S) uint8, 0 = paper; the same."""
    side = len(ink)
    turn, shear = strength * rng.normal(0, (0.12, 0.15))
    wide, high = np.exp(strength * rng.normal(0, 0.15, 2))
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, shear - sin], [sin, cos]]) / (wide, high)
    if rng.random() < 0.25:
        matrix[:, rng.integers(2)] *= -1
    if rng.random() < 0.1:
        matrix = matrix[:, ::-1]
    axis = (np.arange(side) - (side - 1) / 2).astype(np.float32)
    pulls = rng.normal(0, 0.035 * strength * side, (2, PULLS, PULLS)).astype(np.float32)
    x, y = (cv2.resize(pull, (side, side), interpolation=cv2.INTER_CUBIC) for pull in pulls)
    (a, b), (c, d) = matrix.astype(np.float32)
    x += a * axis + b * axis[:, None] + (side - 1) / 2
    y += c * axis + d * axis[:, None] + (side - 1) / 2
    return cv2.remap(ink, x, y, cv2.INTER_LINEAR)


def trim(ink: np.ndarray) -> np.ndarray:
    """Crop ink (S,S) uint8 to what is no paper; a pixel at least."""
    x, y, w, h = cv2.boundingRect((ink > 40).view(np.uint8))
    return ink[y : y + max(h, 1), x : x + max(w, 1)]


def part_of(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one side of some ink (h,w), cut where least of it is near the middle, or all of it."""
    if rng.random() < 0.3:
        return ink
    upright = rng.random() < 0.5
    columns = ink if upright else ink.T
    low, high = int(0.3 * columns.shape[1]), int(0.7 * columns.shape[1]) + 1
    cut = low + int(columns[:, low:high].sum(0, dtype=np.int64).argmin())
    part = columns[:, :cut] if rng.random() < 0.5 and cut > 0 else columns[:, cut:]
    return np.ascontiguousarray(part if upright else part.T)


def collage(some: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Squeeze parts of glyphs (S,S) uint8 into the places of a layout; returns (S,S) uint8."""
    page = np.zeros((SIDE, SIDE), np.uint8)
    fitting = [layout for layout in LAYOUTS if len(layout) == len(some)]
    for ink, place in zip(some, fitting[rng.integers(len(fitting))], strict=True):
        piece = trim(part_of(trim(distort(ink, rng, 0.5)), rng))
        left, top, right, bottom = (round(SIDE * v) for v in place)
        wide, high = (right - left) / piece.shape[1], (bottom - top) / piece.shape[0]
        least = min(wide, high)  # the other side is stretched by half at most, the pen grows little
        wide, high = (min(v, 1.5 * least, MOST_GROWTH) for v in (wide, high))
        piece = cv2.resize(piece, None, fx=wide, fy=high, interpolation=cv2.INTER_AREA)
        h, w = piece.shape
        y, x = (top + bottom - h) // 2, (left + right - w) // 2
        np.maximum(page[y : y + h, x : x + w], piece, out=page[y : y + h, x : x + w])
    return page


def recombine(glyphs: np.ndarray, count: int, rng: np.random.Generator):
    """Yield `count` pictures (h,w) uint8, 255 = paper, made of glyphs (N,S,S) uint8."""
    for number in range(count):
        some = list(glyphs[rng.integers(0, len(glyphs), 3)])
        if number % 2:
            ink = distort(some[0], rng, rng.uniform(0.5, 1.5))
        else:
            ink = collage(some[: 2 + (rng.random() < 0.3)], rng)
        ink = trim(ink)
        if ink.max() > 100:
            yield 255 - np.where(ink < FAINT, 0, ink)  # a clean scan


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("sources", nargs="+", type=Path, help="trees, .gnt files or folders of them")
    add("--count", type=int, default=60_000, help="pictures (default: 60000)")
    add("--seed", type=int, default=0, help="equal seeds give equal pictures (default: 0)")
    add("--out", type=Path, default=Path("data/recombined"), help="folder of the .gnt file")
    args = parser.parse_args(argv)
    check_range(args, 1, math.inf, "count")
    check_range(args, 0, math.inf, "seed")
    parts = [
        chunk.glyphs
        for source in args.sources
        for chunk in stream_glyphs(source, scan(source)[0], SIDE, 0)
    ]
    if not parts:
        raise ValueError(f"{args.sources[0]}: no pictures to recombine")
    rng = np.random.default_rng(args.seed)
    pictures = recombine(np.concatenate(parts), args.count, rng)
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(args.out / "30001-c.gnt") as temporary, temporary.open("wb") as stream:
        for bitmap in progress(pictures, total=args.count, unit=" pictures"):
            write_record(stream, LEVEL1[0], bitmap)
    print(f"{args.out}: {args.count:,} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
