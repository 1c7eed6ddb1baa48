"""Paper under the writing, and remains of an imperfect segmentation.

    page = paper("rice", 96, rng)     # (96, 96) uint8, 255 = blank: an empty 米字格
    bitmap = remains(bitmap, rng)     # with parts of lines and neighbours, gaps

Both are random; `rng` is a numpy Generator.
"""

import cv2
import numpy as np

from hwdb.characters import LEVEL1
from synthesis.writer import Writer, render

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
    ways = _line_left, neighbour, _line_removed
    for number in rng.choice(len(ways), rng.integers(1, 3), replace=False):
        bitmap = at_any_side(ways[number], bitmap, rng)
    x, y, w, h = cv2.boundingRect((bitmap < 255).view(np.uint8))
    return bitmap[y : y + h, x : x + w].copy() if h else bitmap


def at_any_side(change, bitmap: np.ndarray, rng: np.random.Generator, **options) -> np.ndarray:
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


def neighbour(bitmap: np.ndarray, rng: np.random.Generator, least=0.05, most=0.25) -> np.ndarray:
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
