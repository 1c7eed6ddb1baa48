"""Paper under the writing, what an imperfect cleaning leaves of it, and pictures of no character.

    page = paper("rice", 96, rng)            # (96, 96) uint8, 255 = blank: an empty 米字格
    bitmap = remains(bitmap, rng)            # with pieces of lines and neighbours, gaps, off centre
    bitmap = no_character("scribble", rng)   # nothing that could be read as one character

    python -m synthesis.papers --count 50 --out data/none    # a folder of each kind of these

Left out are photographs: uneven light and noise are the business of training/augment.py.
"""

import argparse
import math
import sys
from pathlib import Path

import cv2
import numpy as np

from hwdb.characters import LEVEL1
from jobs.command import check_range, command
from jobs.files import write_file
from synthesis.writer import Writer, render

PAPERS = ("field", "rice", "circle", "ruled", "cell")  # 田字格, 米字格, ring, lines, table
NO_CHARACTERS = (*PAPERS, "scribble", "stamp", "words", "blob", "texture")


def paper(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an empty paper (side, side) uint8 of one of PAPERS, 255 = blank."""
    page = np.full((side, side), 255, np.uint8)
    grey = int(rng.uniform(60, 210))
    width = 1 + int(rng.random() < 0.3)
    rim = int(side * rng.uniform(0.01, 0.08))
    far = side - 1 - rim
    middle = side // 2

    def line(x0: int, y0: int, x1: int, y1: int, dashed: bool = False) -> None:
        count = max(2, int(np.hypot(x1 - x0, y1 - y0) / (side * 0.06))) if dashed else 1
        x, y = np.linspace(x0, x1, 2 * count), np.linspace(y0, y1, 2 * count)
        for k in range(count):
            ends = [(int(x[j]), int(y[j])) for j in (2 * k, 2 * k + 1)]
            cv2.line(page, *ends, grey, width, cv2.LINE_AA)

    dashed = bool(rng.random() < 0.5)
    if kind == "ruled":
        for y in (rim, far):
            line(0, y, side - 1, y, bool(rng.random() < 0.2))
    elif kind == "circle":
        cv2.circle(page, (middle, middle), middle - 1 - rim, grey, width, cv2.LINE_AA)
    elif kind in ("field", "rice", "cell"):
        cv2.rectangle(page, (rim, rim), (far, far), grey, width)
        if kind != "cell":
            line(middle, rim, middle, far, dashed)
            line(rim, middle, far, middle, dashed)
        if kind == "rice":
            line(rim, rim, far, far, dashed)
            line(far, rim, rim, far, dashed)
    else:
        raise ValueError(f"paper {kind!r}, expected one of {', '.join(PAPERS)}")
    return page


def remains(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spoil a bitmap (h, w) uint8 as an imperfect cleaning would; returns (h', w') uint8.

    One to three of: a piece of a line, of a neighbour, a gap where a line was taken out, a side
    that is cut off or left with a margin.
    """
    ways = _line_left, _neighbour_left, _line_taken, _off_centre
    for number in rng.choice(4, rng.integers(1, 4), replace=False):
        turns = int(rng.integers(4))  # to any of the four sides
        turned = np.ascontiguousarray(np.rot90(bitmap, turns))
        bitmap = np.ascontiguousarray(np.rot90(ways[number](turned, rng), -turns))
    x, y, w, h = cv2.boundingRect((bitmap < 255).view(np.uint8))
    return bitmap[y : y + h, x : x + w].copy() if h else bitmap


def _line_left(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a piece of a level line, mostly near a side."""
    h, w = bitmap.shape
    rim = int(0.08 * h) + 1
    bitmap = np.pad(bitmap, ((rim, rim), (0, 0)), constant_values=255)
    y = int(rng.choice([rng.uniform(0, 2 * rim), rng.uniform(h, h + 2 * rim), h * rng.random()]))
    start, length = w * rng.uniform(0, 0.7), w * rng.uniform(0.15, 1)
    ends = (int(start), y), (int(start + length), y + int(rng.normal(0, 0.03) * length))
    drawn = cv2.line(np.full_like(bitmap, 255), *ends, int(rng.uniform(60, 200)), 1, cv2.LINE_AA)
    return np.minimum(bitmap, drawn)


def _neighbour_left(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the edge of another character to the right of this one."""
    h, w = bitmap.shape
    other = render(LEVEL1[rng.integers(len(LEVEL1))], Writer.draw(rng), rng)
    scale = h / len(other)
    other = cv2.resize(other, (max(1, int(scale * other.shape[1])), h))
    share = other[:, : max(2, int(other.shape[1] * rng.uniform(0.05, 0.25)))]
    gap = np.full((h, 1 + int(w * rng.uniform(0, 0.12))), 255, np.uint8)
    return np.hstack([bitmap, gap, share])


def _line_taken(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Break the strokes along a level line that was taken out."""
    h, _ = bitmap.shape
    y, width = int(h * rng.uniform(0.15, 0.85)), max(1, round(h * rng.uniform(0.015, 0.04)))
    bitmap = bitmap.copy()
    bitmap[y : y + width] = 255
    return bitmap


def _off_centre(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a little off below, or leave a speck there that widens the box."""
    h, w = bitmap.shape
    if rng.random() < 0.5:
        return bitmap[: max(4, int(h * rng.uniform(0.88, 0.97)))]
    more = int(h * rng.uniform(0.05, 0.25))
    bitmap = np.pad(bitmap, ((0, more), (0, 0)), constant_values=255)
    x = int(rng.integers(w))
    bitmap[-2:, x : x + 2] = int(rng.uniform(60, 200))
    return bitmap


def no_character(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a picture (h, w) uint8, 255 = paper, of one of NO_CHARACTERS: no single character."""
    side = int(rng.uniform(48, 160))
    if kind in PAPERS:
        return paper(kind, side, rng)
    if kind == "words":  # three to six characters or letters in a row, as printed words are
        pool = LEVEL1 if rng.random() < 0.6 else "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST"
        writer = Writer.draw(rng, 0.2)
        count = rng.integers(3, 7)
        words = [render(pool[rng.integers(len(pool))], writer, rng) for _ in range(count)]
        tall = max(map(len, words))
        rims = [((tall - len(word), 0), (1, rng.integers(2, 9))) for word in words]
        padded = zip(words, rims, strict=True)
        return np.hstack([np.pad(word, rim, constant_values=255) for word, rim in padded])
    page = np.full((side, side), 255, np.uint8)
    grey = int(rng.uniform(0, 120))
    if kind == "scribble":
        steps = rng.normal(0, 1, (2, int(rng.integers(12, 60))))
        way = np.cumsum(steps - rng.uniform(0.2, 0.7) * np.roll(steps, 1, axis=1), axis=1)
        way = cv2.resize(way.astype(np.float32), None, fx=8, fy=1, interpolation=cv2.INTER_CUBIC)
        low, high = way.min(axis=1, keepdims=True), way.max(axis=1, keepdims=True)
        line = (3 + (way - low) / (high - low) * (side - 6)).T.round().astype(np.int32)
        return cv2.polylines(page, [line], False, grey, int(rng.integers(1, 5)), cv2.LINE_AA)
    if kind == "stamp":
        middle, width = (side // 2, side // 2), int(rng.integers(2, 5))
        if rng.random() < 0.5:
            cv2.circle(page, middle, side // 2 - 4, grey, width, cv2.LINE_AA)
        else:
            cv2.rectangle(page, (3, 3), (side - 4, side - 4), grey, width)
        writer = Writer.draw(rng, 0.2)
        for corner in ((0.22, 0.22), (0.52, 0.22), (0.22, 0.52), (0.52, 0.52)):
            y, x = (int(side * place) for place in corner)
            piece = render(LEVEL1[rng.integers(len(LEVEL1))], writer, rng)
            small = cv2.resize(piece, (int(0.26 * side),) * 2, interpolation=cv2.INTER_AREA)
            page[y : y + len(small), x : x + len(small)] = small
        return page
    if kind in ("blob", "texture"):
        coarse = rng.normal(0, 1, (side, side)).astype(np.float32)
        sigma = side * rng.uniform(0.08, 0.2) if kind == "blob" else rng.uniform(0.6, 3)
        noise = cv2.GaussianBlur(coarse, (0, 0), sigma)
        noise = (noise - noise.mean()) / noise.std()
        return np.where(noise > rng.uniform(0.3, 1.2), grey, 255).astype(np.uint8)
    raise ValueError(f"{kind!r} is none of {', '.join(NO_CHARACTERS)}")


@command
def main(argv: list[str] | None = None) -> int:
    """Write pictures of no character, `<out>/<kind>/<number>.png`; return the exit status."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal pictures")
    parser.add_argument("--out", type=Path, default=Path("data/none"), help="folder")
    args = parser.parse_args(argv)
    check_range(args, 1, math.inf, "count")
    check_range(args, 0, math.inf, "seed")
    for number, kind in enumerate(NO_CHARACTERS):
        (args.out / kind).mkdir(parents=True, exist_ok=True)
        for index in range(args.count):
            bitmap = no_character(kind, np.random.default_rng((args.seed, number, index)))
            path = args.out / kind / f"{index:05d}.png"
            write_file(path, cv2.imencode(".png", bitmap)[1].data)
    print(f"{args.out}: {args.count} pictures of each of {', '.join(NO_CHARACTERS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
