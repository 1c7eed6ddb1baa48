"""Paper under the writing, remains of an imperfect segmentation, and pictures of no character.

    page = paper("rice", 96, rng)            # (96, 96) uint8, 255 = blank: an empty 米字格
    bitmap = remains(bitmap, rng)            # with parts of lines and neighbours, gaps, off centre
    bitmap = no_character("scribble", rng)   # one of NO_CHARACTERS

    python -m synthesis.papers --count 50 --out data/none    # a folder of each kind of these

Pictures of no character are empty papers, other marks, and wrong proposals: a character in its
frame, struck by a line, beside another, cut in half, incomplete, or several at once. They are for
`train.py --outliers` and `test.py --no-characters`. Uneven light and noise are left out: see
training/augment.py.
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
from synthesis.templates import stroke_data
from synthesis.writer import HARD, Writer, render

PAPERS = ("field", "rice", "circle", "ruled", "cell")  # 田字格, 米字格, ring, lines, table
DENSE = 7  # strokes of a character of which wrong proposals are made


def paper(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an empty paper (side, side) uint8, 255 = blank, of one of PAPERS."""
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
    """Spoil a bitmap (h, w) uint8 as an imperfect segmentation would; returns (h', w') uint8.

    One to three of: a part of a line, a part of a neighbour, a gap where a line was removed, a side
    that is cut off or has a margin.
    """
    ways = _line_left, _neighbour_left, _line_removed, _off_centre
    for number in rng.choice(4, rng.integers(1, 4), replace=False):
        bitmap = _turned(lambda turned, way=ways[number]: way(turned, rng), bitmap, rng)
    x, y, w, h = cv2.boundingRect((bitmap < 255).view(np.uint8))
    return bitmap[y : y + h, x : x + w].copy() if h else bitmap


def _turned(change, bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return change(bitmap), applied to one of the four sides."""
    turns = int(rng.integers(4))
    turned = change(np.ascontiguousarray(np.rot90(bitmap, turns)))
    return np.ascontiguousarray(np.rot90(turned, -turns))


def _line_left(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a part of a level line, mostly near a side."""
    h, w = bitmap.shape
    rim = int(0.08 * h) + 1
    bitmap = np.pad(bitmap, ((rim, rim), (0, 0)), constant_values=255)
    y = int(rng.choice([rng.uniform(0, 2 * rim), rng.uniform(h, h + 2 * rim), h * rng.random()]))
    start, length = w * rng.uniform(0, 0.7), w * rng.uniform(0.15, 1)
    ends = (int(start), y), (int(start + length), y + int(rng.normal(0, 0.03) * length))
    drawn = cv2.line(np.full_like(bitmap, 255), *ends, int(rng.uniform(60, 200)), 1, cv2.LINE_AA)
    return np.minimum(bitmap, drawn)


def _neighbour_left(
    bitmap: np.ndarray, rng: np.random.Generator, least: float = 0.05, most: float = 0.25
) -> np.ndarray:
    """Add a share of another character to the right of this one."""
    h, w = bitmap.shape
    other = render(LEVEL1[rng.integers(len(LEVEL1))], Writer.draw(rng), rng)
    scale = h / len(other)
    other = cv2.resize(other, (max(1, int(scale * other.shape[1])), h))
    share = other[:, : max(2, int(other.shape[1] * rng.uniform(least, most)))]
    gap = np.full((h, 1 + int(w * rng.uniform(0, 0.12))), 255, np.uint8)
    return np.hstack([bitmap, gap, share])


def _line_removed(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Break the strokes along a level line that was removed."""
    h, _ = bitmap.shape
    y, width = int(h * rng.uniform(0.15, 0.85)), max(1, round(h * rng.uniform(0.015, 0.04)))
    bitmap = bitmap.copy()
    bitmap[y : y + width] = 255
    return bitmap


def _off_centre(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a little off at the bottom, or leave a speck there that widens the box."""
    h, w = bitmap.shape
    if rng.random() < 0.5:
        return bitmap[: max(4, int(h * rng.uniform(0.88, 0.97)))]
    more = int(h * rng.uniform(0.05, 0.25))
    bitmap = np.pad(bitmap, ((0, more), (0, 0)), constant_values=255)
    x = int(rng.integers(w))
    bitmap[-2:, x : x + 2] = int(rng.uniform(60, 200))
    return bitmap


def no_character(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a picture (h, w) uint8, 255 = paper, of one of NO_CHARACTERS."""
    if kind not in NO_CHARACTERS:
        raise ValueError(f"{kind!r}, expected one of {', '.join(NO_CHARACTERS)}")
    side = int(rng.uniform(48, 160))
    if kind in PAPERS:
        return paper(kind, side, rng)
    if kind in NOISE:
        return NOISE[kind](side, rng)
    return WRONG[kind](_dense(Writer.draw(rng, rng.uniform(*HARD)), rng), rng)


# Marks of other kinds ----------------------------------------------------------------------------


def _scribble(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a random walk of the pen."""
    steps = rng.normal(0, 1, (2, int(rng.integers(12, 60))))
    way = np.cumsum(steps - rng.uniform(0.2, 0.7) * np.roll(steps, 1, axis=1), axis=1)
    way = cv2.resize(way.astype(np.float32), None, fx=8, fy=1, interpolation=cv2.INTER_CUBIC)
    low, high = way.min(axis=1, keepdims=True), way.max(axis=1, keepdims=True)
    line = (3 + (way - low) / (high - low) * (side - 6)).T.round().astype(np.int32)
    page, grey = np.full((side, side), 255, np.uint8), int(rng.uniform(0, 120))
    return cv2.polylines(page, [line], False, grey, int(rng.integers(1, 5)), cv2.LINE_AA)


def _stamp(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a seal: a ring or a square with four characters."""
    page, grey = np.full((side, side), 255, np.uint8), int(rng.uniform(0, 120))
    width = int(rng.integers(2, 5))
    if rng.random() < 0.5:
        cv2.circle(page, (side // 2, side // 2), side // 2 - 4, grey, width, cv2.LINE_AA)
    else:
        cv2.rectangle(page, (3, 3), (side - 4, side - 4), grey, width)
    writer = Writer.draw(rng, 0.2)
    for corner in ((0.22, 0.22), (0.52, 0.22), (0.22, 0.52), (0.52, 0.52)):
        y, x = (int(side * place) for place in corner)
        piece = render(LEVEL1[rng.integers(len(LEVEL1))], writer, rng)
        small = cv2.resize(piece, (int(0.26 * side),) * 2, interpolation=cv2.INTER_AREA)
        page[y : y + len(small), x : x + len(small)] = small
    return page


def _noise(side: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Draw spots of about `sigma` px."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), sigma)
    noise = (noise - noise.mean()) / noise.std()
    return np.where(noise > rng.uniform(0.3, 1.2), rng.uniform(0, 120), 255).astype(np.uint8)


# Wrong proposals: what a faulty segmentation of a page takes for the character --------------------


def _dense(writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Draw a character of at least DENSE strokes: no part of it is likely to be another one."""
    while len(stroke_data()[character := LEVEL1[rng.integers(len(LEVEL1))]][0]) < DENSE:
        pass
    return render(character, writer, rng)


def _framed(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave the paper's lines around and behind a character."""
    h, w = ink.shape
    side = int(max(h, w) * rng.uniform(1.15, 1.8))
    page = paper(PAPERS[rng.integers(len(PAPERS))], side, rng)
    y, x = (int((side - length) * rng.uniform(0.3, 0.7)) for length in (h, w))
    page[y : y + h, x : x + w] = np.minimum(page[y : y + h, x : x + w], ink)
    return page


def _struck(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave one or two ruled lines through or next to a character."""
    h, w = ink.shape
    rim = int(0.15 * h)
    page = np.pad(ink, ((rim, rim), (rim, rim)), constant_values=255)
    for _ in range(int(rng.integers(1, 3))):
        y, grey = int(rng.integers(len(page))), int(rng.uniform(0, 170))
        tilt = int(rng.normal(0, 0.02) * w)
        lines = np.full_like(page, 255)
        width = 1 + int(rng.gamma(1.2, 0.012) * h)
        cv2.line(lines, (0, y), (page.shape[1] - 1, y + tilt), grey, width, cv2.LINE_AA)
        page = np.minimum(page, lines)
    return page


def _beside(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave a neighbour, or a part of one, at one of the four sides."""
    return _turned(lambda one: _neighbour_left(one, rng, 0.25, 0.9), ink, rng)


def _half(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a character in two where its strokes are cut, too; keep one of the parts."""
    ink = np.rot90(ink, int(rng.integers(4)))
    places = np.flatnonzero((ink < 128).sum(axis=1) > 1)
    places = places[(places > 0.35 * len(ink)) & (places < 0.7 * len(ink))]
    return ink[: rng.choice(places) if len(places) else len(ink) // 2].copy()


def _incomplete(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Erase a part of a character, or all along a broad line through it."""
    h, w = ink.shape
    ink, middle = ink.copy(), (int(w * rng.uniform(0.2, 0.8)), int(h * rng.uniform(0.2, 0.8)))
    if rng.random() < 0.5:
        size = (int(w * rng.uniform(0.2, 0.35)), int(h * rng.uniform(0.2, 0.35)))
        return cv2.ellipse(ink, middle, size, 0, 0, 360, 255, -1)
    angle = rng.uniform(0, np.pi)
    reach = 2 * max(h, w) * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple((middle + sign * reach).astype(int).tolist()) for sign in (-1, 1)]
    return cv2.line(ink, *ends, 255, int(max(h, w) * rng.uniform(0.1, 0.25)))


def _several(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw two to five characters in a row or in a column."""
    writer = Writer.draw(rng, rng.uniform(*HARD))
    inks = [ink, *(_dense(writer, rng) for _ in range(int(rng.integers(1, 5))))]
    turns = int(rng.integers(2))  # a column is a row turned by 90 degrees
    turned = [np.rot90(one, turns) for one in inks]
    tall = max(map(len, turned))
    rims = [((tall - len(one), 0), (1, int(rng.integers(2, 9)))) for one in turned]
    padded = zip(turned, rims, strict=True)
    row = np.hstack([np.pad(one, rim, constant_values=255) for one, rim in padded])
    return np.ascontiguousarray(np.rot90(row, -turns))


NOISE = {
    "scribble": _scribble,
    "stamp": _stamp,
    "blob": lambda side, rng: _noise(side, side * rng.uniform(0.08, 0.2), rng),
    "texture": lambda side, rng: _noise(side, rng.uniform(0.6, 3), rng),
}
WRONG = {
    "framed": _framed,
    "struck": _struck,
    "beside": _beside,
    "half": _half,
    "incomplete": _incomplete,
    "several": _several,
}
NO_CHARACTERS = (*PAPERS, *NOISE, *WRONG)


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
