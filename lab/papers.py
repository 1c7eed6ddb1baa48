"""Draw images without a character, for `train.py --outliers` and `test.py --no-characters`.

    python -m lab.papers --count 50 --out data/none    # one folder per kind

The kinds are empty paper, scribbles, spots, and wrong proposals of a character.
"""

import argparse
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from hwdb.characters import LEVEL1
from jobs.command import command
from jobs.files import write_file
from synthesis.papers import PAPERS, at_any_side, neighbour, paper
from synthesis.templates import stroke_data
from synthesis.writer import HARD, Writer, render

DENSE = 7  # strokes of a character of which wrong proposals are made


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


_beside = partial(at_any_side, neighbour, least=0.25, most=0.9)
MARKS = dict(scribble=_scribble, spots=_spots)
WRONG = dict(framed=_framed, beside=_beside, half=_half, incomplete=_incomplete, several=_several)
NO_CHARACTERS = (*PAPERS, *MARKS, *WRONG)


@command
def main(argv: list[str] | None = None) -> int:
    """Write images without a character to `<out>/<kind>/<number>.png`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=50, help="images per kind (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("data/none"), help="folder to write to")
    args = parser.parse_args(argv)
    for number, kind in enumerate(NO_CHARACTERS):
        (args.out / kind).mkdir(parents=True, exist_ok=True)
        for index in range(args.count):
            bitmap = no_character(kind, np.random.default_rng((args.seed, number, index)))
            write_file(args.out / kind / f"{index:05d}.png", cv2.imencode(".png", bitmap)[1].data)
    print(f"{args.out}: {args.count} images of each of {', '.join(NO_CHARACTERS)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
