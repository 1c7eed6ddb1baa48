"""Read characters as they stand on paper: grids, lines, cells, boxes, neighbours, specks.

    python -m benchmarks.scenes data/test
    python -m benchmarks.scenes competition.gnt --papers photos/ --limit 300

Characters are drawn onto pictures of 160 px, the same ones in every kind; `--papers` are photos of
empty cells and lines, over which the ink is laid. The recognition network of PP-OCRv6 reads the
same pictures where rapidocr is installed (benchmarks/peers.py): as they are or less some of the
border, whichever of `VIEWS` it reads best of a kind. `--pages` are photos of 2000 x 1500 px with a
character of 300 px in ink or pencil, in even light or with the sharp edge of a shadow, and of empty
sheets; then empty sheets of other sizes, noise and JPEG qualities.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import cv2
import numpy as np

from benchmarks import timing
from benchmarks.peers import PACKAGES, Ranking, find, line_reader, pictures
from config import DEFAULT_CHECKPOINT
from picture import read_picture, to_grey
from recognizer import Recognizer

SIDE = 160
PEER = "PP-OCRv6 small"
VIEWS = ((0, 96), (0, 320), (16, 96), (16, 320), (28, 320))  # border cut off, px; width of the line
KINDS = (
    *("clean", "grid", "diagonal grid", "grid, tilted", "grid, photo", "ruled", "cell"),
    *("neighbour", "several neighbours", "neighbours, photo", "specks", "box by hand", "through"),
)

# How much darker than white paper the pen is, of 255; the share of light that a shadow takes.
PAGES = {
    "page": (140, 0),
    "page, shadow": (140, 0.3),
    "page, pencil": (12, 0),
    "page, pencil, shadow": (12, 0.3),
    "page, faintest pencil": (6, 0),
}
# Empty sheets: sides, px; deviations of the noise; JPEG qualities; sizes of its grain, px; of each.
EMPTY = ((64, 160, 320, 1000), (1, 3, 8, 20), (30, 75, 95), (0, 1, 3), range(6))


def place(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a page (SIDE,SIDE) float, 1 = paper, with a character (h,w) uint8 near its middle."""
    scale = rng.uniform(75, 105) / max(ink.shape)
    small = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) / 255
    page = np.ones((SIDE, SIDE))
    y, x = ((SIDE - np.array(small.shape)) // 2 + rng.integers(-6, 7, 2)).tolist()
    page[y : y + small.shape[0], x : x + small.shape[1]] = small
    return page


def rules(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the lines (SIDE,SIDE) float of a kind of paper, 1 = paper."""
    lines = np.ones((SIDE, SIDE))
    a, b = int(rng.integers(6, 18)), SIDE - int(rng.integers(6, 18))
    shade, width = rng.uniform(0.1, 0.75), int(rng.integers(1, 5))
    if "grid" in kind:
        cv2.rectangle(lines, (a, a), (b, b), shade, width)
        for t in np.arange(a, b - 4, 8):
            lines[SIDE // 2, t : t + 4] = lines[t : t + 4, SIDE // 2] = shade
            if "diagonal" in kind:
                cv2.line(lines, (int(t), int(t)), (int(t) + 3, int(t) + 3), shade, 1)
                cv2.line(
                    lines, (int(a + b - t),) + (int(t),), (int(a + b - t) - 3, int(t) + 3), shade
                )
    elif kind == "ruled":
        lines[a : a + width] = lines[b : b + width] = shade
    elif kind == "through":
        at = int(rng.integers(95, 115))
        lines[at : at + width] = shade
    elif kind == "cell":
        lines[:width] = lines[:, :width] = lines[-width:] = lines[:, -width:] = shade / 2
    elif kind == "box by hand":
        corners = np.array([[a, a], [b, a], [b, b], [a, b]]) + rng.normal(0, 4, (4, 2))
        for one, two in zip(corners, np.roll(corners, -1, 0), strict=True):
            t = np.linspace(0, 1, 20)[:, None]
            points = one + (two - one) * t + np.cumsum(rng.normal(0, 0.4, (20, 2)), 0)
            cv2.polylines(lines, [np.rint(points).astype(np.int32)], False, shade / 2, width + 1)
    return lines


def scene(kind: str, ink, others, papers, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (SIDE,SIDE) uint8 of a character, 255 = white."""
    page = place(ink, rng)
    if "neighbour" in kind:
        sides = rng.permutation(4)[: rng.integers(2, 5) if kind != "neighbour" else 1]
        for side, other in zip(sides, others, strict=False):
            deep = int(rng.integers(8, 24))
            columns = place(other, rng)
            first = int(np.flatnonzero((columns < 0.5).any(0))[-1]) - deep
            view = np.rot90(page, side)
            view[:, :deep] = np.minimum(view[:, :deep], columns[:, first : first + deep])
    elif kind == "specks":
        y, x = rng.integers(0, SIDE, (2, 250))
        page[y, x] = rng.uniform(0.1, 0.7, 250)
    page = np.minimum(page, rules(kind, rng))
    if "tilted" in kind:
        turn = cv2.getRotationMatrix2D((SIDE / 2,) * 2, rng.uniform(-8, 8), 0.95)
        page = cv2.warpAffine(page, turn, (SIDE, SIDE), borderValue=1)
    light = np.full((SIDE, SIDE), rng.uniform(0.88, 1.0))
    if "photo" in kind:
        light *= np.linspace(1, rng.uniform(0.5, 0.9), SIDE)[None]
        light[:, : int(rng.integers(20, 140))] *= rng.uniform(0.65, 0.9)
        light = cv2.GaussianBlur(light, (0, 0), 2)
    if kind == "paper":
        light = cv2.resize(papers[rng.integers(len(papers))], (SIDE, SIDE)) / 255
    noise = rng.normal(0, 2, page.shape)
    picture = (255 * light * (0.15 + 0.85 * page) + noise).clip(0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0)


def photo(ink: np.ndarray | None, contrast: float, shadow: float, rng) -> np.ndarray:
    """Return a photo (1500,2000) uint8 of a sheet with a character (h,w) uint8, or of none."""
    y, x = np.mgrid[:1500, :2000].astype(np.float32)
    light = rng.uniform(170, 235) * np.linspace(1, rng.uniform(0.7, 1), 2000, dtype=np.float32)
    edge = x + rng.uniform(-0.6, 0.6) * (y - 750) - rng.uniform(200, 1800)
    light = light * (1 - shadow / (1 + np.exp(-edge.clip(-300, 300) / 6)))
    if ink is not None:
        scale = 300 / max(ink.shape)
        big = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        h, w = big.shape
        top, left = rng.integers(100, 1400 - h), rng.integers(100, 1900 - w)
        part = light[top : top + h, left : left + w]
        part *= 1 - contrast / 255 * (1 - big / np.float32(255))
    picture = light + rng.normal(0, 2, light.shape).astype(np.float32)
    picture = picture.clip(0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0)


def of_pages(recognizer: Recognizer, data: list[tuple[str, np.ndarray]]) -> list[timing.Row]:
    """Return what is read of photos of whole sheets, and how many empty ones are said to be so."""
    rows = []
    for kind, (contrast, shadow) in PAGES.items():
        right, refused, blank = 0, 0, 0
        for i, (character, ink) in enumerate(data):
            rng = np.random.default_rng([i, len(kind)])
            reading, none = (
                recognizer.recognize([photo(some, contrast, shadow, rng)], top_k=1)[0]
                for some in (ink, None)
            )
            refused, blank = refused + bool(reading.error), blank + bool(none.error)
            right += bool(reading) and reading[0].character == character
        rows.append(timing.Row(f"{kind}, refused {refused}", 100 * right / len(data), "%"))
        rows.append(timing.Row(f"{kind}, empty sheets refused", 100 * blank / len(data), "%"))
    return rows


def empty(side: int, noise: float, quality: int, grain: float, number: int) -> np.ndarray:
    """Return a photo (side,side) uint8 of paper in uneven light."""
    rng = np.random.default_rng([side, noise, quality, grain, number])
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = rng.uniform(120, 235) * (1 - rng.uniform(0, 0.3) * (x**2 + y**2) / 2)
    page = light * (1 + rng.uniform(-0.15, 0.15) * x) + rng.normal(0, noise, (side, side))
    if grain:
        soft = cv2.GaussianBlur(rng.normal(0, 1, (side, side)), (0, 0), grain)
        page += soft / soft.std() * noise * 0.7
    page = page.clip(0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def of_empty(recognizer: Recognizer) -> list[timing.Row]:
    """Return how many empty sheets of each JPEG quality are said to be so."""
    rows = []
    for quality in EMPTY[2]:
        kinds = list(itertools.product(*EMPTY[:2], (quality,), *EMPTY[3:]))
        blank = sum(bool(recognizer.recognize([empty(*kind)])[0].error) for kind in kinds)
        said = f"empty, JPEG quality {quality}, {len(kinds) - blank} of {len(kinds)} read"
        rows.append(timing.Row(f"{said}; refused", 100 * blank / len(kinds), "%"))
    return rows


def peers(classes: set[str]) -> list[Ranking]:
    """Return the readers of PEER, one for each of VIEWS; none where it is not installed."""
    path = find(*PACKAGES[PEER][:2])

    def view(border: int):
        return lambda picture: picture[border : SIDE - border, border : SIDE - border]

    return [line_reader(path, classes, view(cut), w) for cut, w in VIEWS] if path else []


def main(argv: list[str] | None = None) -> int:
    """Print top-1 for every kind of scene."""
    parser = timing.parser(__doc__)
    parser.add_argument("pictures", help="tree of class folders, .gnt file or folder of them")
    parser.add_argument("--papers", type=Path, metavar="DIR", help="photos of empty paper")
    parser.add_argument("--pages", action="store_true", help="read photos of whole sheets instead")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, metavar="FILE")
    parser.add_argument("--limit", type=timing.at_least_one, default=200, metavar="N")
    given = parser.parse_args(argv)
    recognizer = Recognizer.from_checkpoint(given.checkpoint)
    known = set(recognizer.classes)
    others = peers(known)
    data = [(c, to_grey(p)) for c, p in pictures(given.pictures) if c in known]
    if not data:
        raise ValueError(f"{given.pictures}: no picture of a class of {given.checkpoint}")
    order = np.random.default_rng(0).permutation(len(data))[: given.limit]
    if given.pages:
        rows = of_pages(recognizer, [data[i] for i in order]) + of_empty(recognizer)
        timing.report(rows, given.json)
        return 0
    files = sorted(given.papers.iterdir()) if given.papers else []
    papers = [to_grey(read_picture(path)) for path in files]
    rows = []
    for kind in (*KINDS, "paper") if papers else KINDS:
        right, theirs, refused = 0, np.zeros(len(others)), 0
        for i in order:
            rng = np.random.default_rng([i, len(kind)])
            beside = [data[j][1] for j in rng.integers(0, len(data), 4)]
            picture = scene(kind, data[i][1], beside, papers, rng)
            theirs += [rank(picture)[0] == data[i][0] for rank in others]
            try:
                reading = recognizer.read(recognizer.glyph(picture)[None], top_k=1)[0][0]
                right += reading.character == data[i][0]
            except ValueError:
                refused += 1
        rows.append(timing.Row(f"{kind}, refused {refused}", 100 * right / len(order), "%"))
        if others:
            rows.append(timing.Row(f"{kind}, {PEER}", 100 * theirs.max() / len(order), "%"))
    if not others:
        print(f"{PEER}: not installed (pip install {PACKAGES[PEER][2]})", file=sys.stderr)
    timing.report(rows, given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
