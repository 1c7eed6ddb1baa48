"""Paper under the writing, remains of an imperfect segmentation, and images without a character.

    page = paper("rice", 96, rng)            # (96, 96) uint8, 255 = blank: an empty 米字格
    bitmap = remains(bitmap, rng)            # with parts of lines and neighbours, gaps
    bitmap = no_character("scribble", rng)   # one of NO_CHARACTERS

    python -m synthesis.papers --count 50 --out data/none    # a folder for each kind

Images without a character are for `train.py --outliers` and `test.py --no-characters`.
"""

import argparse
import math
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from hwdb.characters import LEVEL1
from jobs.command import check_range, command
from jobs.files import write_file
from synthesis.templates import stroke_data
from synthesis.writer import HARD, Writer, render

FRAME = [(0, 0, 1, 0), (0, 1, 1, 1), (0, 0, 0, 1), (1, 0, 1, 1)]
CROSS = [(0.5, 0, 0.5, 1), (0, 0.5, 1, 0.5)]
DIAGONALS = [(0, 0, 1, 1), (1, 0, 0, 1)]
# Solid lines and lines that may be dashed: x, y of both ends, as shares of the frame.
PAPERS = {
    "field": (FRAME, CROSS),  # 田字格
    "rice": (FRAME, CROSS + DIAGONALS),  # 米字格
    "ruled": ([(-1, 0, 2, 0), (-1, 1, 2, 1)], []),
    "cell": (FRAME, []),
}
DASHES = 12
DENSE = 7  # strokes of a character of which wrong proposals are made


def draw_line(page: np.ndarray, ends, grey: float, width: int = 1, dashes: int = 1) -> None:
    """Draw a line on a page (h, w) uint8, in place; `ends` are x, y, x, y in px."""
    drawn = np.full_like(page, 255)
    places = np.linspace(ends[:2], ends[2:], 2 * dashes).round().astype(int).tolist()
    for start, end in zip(places[::2], places[1::2], strict=True):
        cv2.line(drawn, start, end, int(grey), width, cv2.LINE_AA)
    np.minimum(page, drawn, out=page)


def paper(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an empty paper (side, side) uint8, 255 = blank, of one of PAPERS."""
    page = np.full((side, side), 255, np.uint8)
    solid, inner = PAPERS[kind]
    grey, width = rng.uniform(60, 210), 1 + int(rng.random() < 0.3)
    margin = side * rng.uniform(0.01, 0.08)
    dashes = DASHES if rng.random() < 0.5 else 1
    for k, ends in enumerate(np.array(solid + inner) * (side - 1 - 2 * margin) + margin):
        draw_line(page, ends, grey, width, dashes if k >= len(solid) else 1)
    return page


def remains(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spoil a bitmap (h, w) uint8 as an imperfect segmentation would; returns (h', w') uint8.

    One or two of: a part of a line, a part of a neighbour, a gap where a line was removed.
    """
    ways = _line_left, _neighbour, _line_removed
    for number in rng.choice(len(ways), rng.integers(1, 3), replace=False):
        bitmap = _at_any_side(ways[number], bitmap, rng)
    x, y, w, h = cv2.boundingRect((bitmap < 255).view(np.uint8))
    return bitmap[y : y + h, x : x + w].copy() if h else bitmap


def _at_any_side(change, bitmap: np.ndarray, rng: np.random.Generator, **options) -> np.ndarray:
    """Return change(bitmap, rng, **options), applied to one of the four sides."""
    turns = int(rng.integers(4))
    turned = change(np.rot90(bitmap, turns).copy(), rng, **options)
    return np.ascontiguousarray(np.rot90(turned, -turns))


def _line_left(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a part of a level line, mostly near a side."""
    h, w = bitmap.shape
    rim = int(0.08 * h) + 1
    bitmap = np.pad(bitmap, ((rim, rim), (0, 0)), constant_values=255)
    y = rng.choice([rng.uniform(0, 2 * rim), rng.uniform(h, h + 2 * rim), h * rng.random()])
    x, length = w * rng.uniform(0, 0.7), w * rng.uniform(0.15, 1)
    draw_line(bitmap, (x, y, x + length, y + rng.normal(0, 0.03) * length), rng.uniform(60, 200))
    return bitmap


def _neighbour(bitmap: np.ndarray, rng: np.random.Generator, least=0.05, most=0.25) -> np.ndarray:
    """Add a share of another character to the right of this one."""
    h, w = bitmap.shape
    other = render(LEVEL1[rng.integers(len(LEVEL1))], Writer.draw(rng), rng)
    other = cv2.resize(other, (max(1, other.shape[1] * h // len(other)), h))
    share = other[:, : max(2, int(other.shape[1] * rng.uniform(least, most)))]
    gap = np.full((h, 1 + int(w * rng.uniform(0, 0.12))), 255, np.uint8)
    return np.hstack([bitmap, gap, share])


def _line_removed(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Break the strokes along a level line that was removed."""
    h = len(bitmap)
    y, width = int(h * rng.uniform(0.15, 0.85)), max(1, round(h * rng.uniform(0.015, 0.04)))
    bitmap[y : y + width] = 255
    return bitmap


def no_character(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw an image (h, w) uint8, 255 = paper, of one of NO_CHARACTERS."""
    side = int(rng.uniform(48, 160))
    if kind in WRONG:
        return WRONG[kind](_dense(Writer.draw(rng, rng.uniform(*HARD)), rng), rng)
    return MARKS[kind](side, rng) if kind in MARKS else paper(kind, side, rng)


def _scribble(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a random walk of the pen."""
    steps = rng.normal(0, 1, (2, int(rng.integers(12, 60))))
    way = np.cumsum(steps - rng.uniform(0.2, 0.7) * np.roll(steps, 1, axis=1), axis=1)
    way = cv2.resize(way.astype(np.float32), None, fx=8, fy=1, interpolation=cv2.INTER_CUBIC)
    low, high = way.min(axis=1, keepdims=True), way.max(axis=1, keepdims=True)
    line = (3 + (way - low) / (high - low) * (side - 6)).T.round().astype(np.int32)
    page, grey = np.full((side, side), 255, np.uint8), int(rng.uniform(0, 120))
    return cv2.polylines(page, [line], False, grey, int(rng.integers(1, 5)), cv2.LINE_AA)


def _spots(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw dark spots, from the grain of paper to blots."""
    sigma = np.exp(rng.uniform(np.log(0.6), np.log(0.2 * side)))
    noise = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), sigma)
    noise = (noise - noise.mean()) / noise.std()
    return np.where(noise > rng.uniform(0.3, 1.2), rng.uniform(0, 120), 255).astype(np.uint8)


def _dense(writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Draw a character of at least DENSE strokes: no part of it is likely to be another one."""
    while len(stroke_data()[character := LEVEL1[rng.integers(len(LEVEL1))]][0]) < DENSE:
        pass
    return render(character, writer, rng)


def _framed(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave the paper's lines around and behind a character."""
    h, w = ink.shape
    side = int(max(h, w) * rng.uniform(1.15, 1.8))
    page = paper(rng.choice(list(PAPERS)), side, rng)
    y, x = (int((side - length) * rng.uniform(0.3, 0.7)) for length in (h, w))
    page[y : y + h, x : x + w] = np.minimum(page[y : y + h, x : x + w], ink)
    return page


def _half(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a character in two where its strokes are cut, too; keep one of the parts."""
    ink = np.rot90(ink, int(rng.integers(4)))
    places = np.flatnonzero((ink < 128).sum(axis=1) > 1)
    places = places[(places > 0.35 * len(ink)) & (places < 0.7 * len(ink))]
    return ink[: rng.choice(places) if len(places) else len(ink) // 2].copy()


def _incomplete(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Erase all along a broad line through a character."""
    h, w = ink.shape
    middle = rng.uniform(0.2, 0.8, 2) * (w, h)
    angle = rng.uniform(0, np.pi)
    reach = 2 * max(h, w) * np.array([np.cos(angle), np.sin(angle)])
    ends = np.rint([middle - reach, middle + reach]).astype(int).tolist()
    return cv2.line(ink.copy(), *ends, 255, int(max(h, w) * rng.uniform(0.1, 0.25)))


def _several(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw two to five characters in a row or in a column."""
    writer = Writer.draw(rng, rng.uniform(*HARD))
    turns = int(rng.integers(2))  # a column is a row turned by 90 degrees
    inks = [ink, *(_dense(writer, rng) for _ in range(int(rng.integers(1, 5))))]
    inks = [np.rot90(one, turns) for one in inks]
    gap, tall = int(rng.integers(2, 9)), max(map(len, inks))
    row = [np.pad(one, ((tall - len(one), 0), (1, gap)), constant_values=255) for one in inks]
    return np.ascontiguousarray(np.rot90(np.hstack(row), -turns))


_beside = partial(_at_any_side, _neighbour, least=0.25, most=0.9)
MARKS = dict(scribble=_scribble, spots=_spots)
WRONG = dict(framed=_framed, beside=_beside, half=_half, incomplete=_incomplete, several=_several)
NO_CHARACTERS = (*PAPERS, *MARKS, *WRONG)


@command
def main(argv: list[str] | None = None) -> int:
    """Write images without a character, `<out>/<kind>/<number>.png`; return the exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=50, help="images of each kind (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal images")
    parser.add_argument("--out", type=Path, default=Path("data/none"), help="default: data/none")
    args = parser.parse_args(argv)
    check_range(args, 1, math.inf, "count")
    for number, kind in enumerate(NO_CHARACTERS):
        (args.out / kind).mkdir(parents=True, exist_ok=True)
        for index in range(args.count):
            bitmap = no_character(kind, np.random.default_rng((args.seed, number, index)))
            write_file(args.out / kind / f"{index:05d}.png", cv2.imencode(".png", bitmap)[1].data)
    print(f"{args.out}: {args.count} images of each of {', '.join(NO_CHARACTERS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
