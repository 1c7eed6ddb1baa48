"""Find the character on its paper: lines, frames, circles and pieces of neighbours are left out.

    ink (h,w) uint8, 0 = paper -> Scene: the ink of one character, and what was left out

The finder (finder.py) says of every pixel whether its ink is the character's. Ink falls into
pieces: what is nearly all the character's, or nearly all foreign, is kept or left out whole; only
what is both, as strokes on a line are, is cut. Where the evidence is weak, all ink stays as it is.

numpy and OpenCV only. Left out: reading whole lines or pages.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from picture.finder import evidence

INK = 48  # of 255: from here on a pixel is ink
LONG = 0.3  # share of the side that a line has at least
SURE = 0.1  # a piece with this share of other ink, or less, is not cut


class Mark(NamedTuple):
    """What was left out."""

    kind: str  # line, piece, speck
    box: tuple[int, int, int, int]  # top, bottom, left, right


class Scene(NamedTuple):
    """A character without what stood around it."""

    ink: np.ndarray  # (h,w) uint8, 0 = paper
    marks: list[Mark]
    more: bool  # other whole characters were left out


class Pieces(NamedTuple):
    """Connected pieces of a mask: their numbers (h,w), from 1 on, and what is known of each."""

    labels: np.ndarray  # (h,w) int32, 0 = paper
    left: np.ndarray  # (n,) int32, as the rest
    top: np.ndarray
    width: np.ndarray
    height: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> Pieces:
        """Find the pieces of a mask (h,w) bool."""
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        return cls(labels, *stats.T)

    def share(self, marked: np.ndarray) -> np.ndarray:
        """Return the share (n,) of each piece that is marked (h,w)."""
        return np.bincount(self.labels.ravel(), marked.ravel(), len(self.area)) / self.area


def find_character(ink: np.ndarray) -> Scene:
    """Leave out what does not belong to the character in the middle.

    Args:
        ink: (h,w) uint8, 0 = paper, at most some hundred pixels a side.
    """
    mask = ink > INK
    lines = mask & ~_whole(mask, mask & (evidence(ink) > 0))
    marks = _lines(lines)
    long = max((max(b - t, r - left) for _, (t, b, left, r) in marks), default=0)
    if long < LONG * max(ink.shape):
        lines[:], marks = False, []
    if _is_tight(ink) and long < 0.75 * max(ink.shape):
        return Scene(ink, [], False)
    erased = lines.view(np.uint8)
    keep, others, more = _choose(mask & ~erased, ink, erased if marks else None)
    if not marks and not others or not _plausible(keep, mask, bool(marks)):
        return Scene(ink, [], False)
    keep = cv2.dilate(keep, np.ones((3, 3), np.uint8)) & ~erased
    return Scene(ink * keep, marks + others, more)


def _lines(lines: np.ndarray) -> list[Mark]:
    """Name the pieces of lines (h,w) bool."""
    pieces = Pieces.of(lines)
    found = zip(*(part[1:].tolist() for part in pieces[1:5]), strict=True)
    return [Mark("line", (top, top + high, left, left + wide)) for left, top, wide, high in found]


def _is_tight(ink: np.ndarray) -> bool:
    """Tell whether a picture was cropped to its ink: strokes only just reach two or more sides.

    What goes on beyond the border is as strong there as three pixels further inside.
    """
    if min(ink.shape) < 8:
        return True
    grazed = 0
    for rows in (ink[:4], ink[:-5:-1], ink[:, :4].T, ink[:, :-5:-1].T):
        touches = max(int(rows[0].max()), int(rows[1].max())) > INK
        grazed += touches and 2 * int(rows[0].sum()) < int(rows[3].sum())
    return grazed >= 2


def _pen(mask: np.ndarray) -> float:
    """Return the usual width of the strokes of a mask (h,w) uint8, 0 where there are none."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    return float(4 * depth.sum() / max(int(mask.sum()), 1))


def _plausible(keep: np.ndarray, mask: np.ndarray, lined: bool) -> bool:
    """Tell whether the pieces kept are a character among other things, not a part of a tight one.

    A tight crop touches the border wherever something is taken from it.
    """
    h, w = mask.shape
    left, top, wide, high = cv2.boundingRect(keep)
    if keep.sum() < 0.03 * mask.sum() or max(high, wide) < 0.12 * max(h, w):
        return False
    margins = np.array([top, left, h - top - high, w - left - wide])
    if (margins < 2).sum() > (1 if lined else 0):
        return False
    touched = sum(one.any() for one in (mask[:2], mask[-2:], mask[:, :2], mask[:, -2:]))
    if lined or touched < 2:
        return True
    off = np.hypot((2 * top + high) / h - 1, (2 * left + wide) / w - 1) / 2
    return max(high, wide) > 0.33 * max(h, w) and off < 0.15 and keep.sum() > 0.4 * mask.sum()


def _whole(mask: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Keep or drop pieces of ink (h,w) bool as a whole where hardly any is another's."""
    pieces = Pieces.of(mask)
    share = pieces.share(own)
    state = np.where(share < SURE, 0, np.where(share > 1 - SURE, 1, 2)).astype(np.uint8)
    state[0] = 0
    state = state[pieces.labels]
    mixed = state == 2
    own = (state == 1) | (own & mixed)
    if not mixed.any():
        return own
    # What is no larger than a dot beside a cut belongs to the other side of it.
    depth = cv2.distanceTransform(own.view(np.uint8), cv2.DIST_L2, 3)
    dot = (4 * depth.sum() / max(own.sum(), 1)) ** 2  # the pen's width, squared
    for side in (True, False):
        parts = Pieces.of(mixed & (own == side))
        small = parts.area < 0.6 * dot
        small[0] = False
        own = own ^ small[parts.labels]
    return own


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
    return round(y0), round(y1) + 1, round(x0), round(x1) + 1


# Pieces -----------------------------------------------------------------------------------------


def _choose(
    mask: np.ndarray, ink: np.ndarray, bands: np.ndarray | None, outside: np.ndarray | None = None
) -> tuple[np.ndarray, list[Mark], bool]:
    """Return the pieces (h,w) uint8 of the character in the middle, the others, more of them."""
    h, w = mask.shape
    side = max(h, w)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 3:
        return mask, [], False
    x0, y0, width, height, area = stats[1:].T.astype(float)
    x1, y1 = x0 + width, y0 + height
    pieces = labels.ravel()
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    pen = np.maximum(4 * np.bincount(pieces, depth.ravel(), count)[1:] / area - 2, 1)
    dark = np.bincount(pieces, ink.ravel(), count)[1:] / area
    touching, cut = _cut(labels, ink, count)
    middle = np.outer(*(np.exp(-((np.linspace(-2, 2, n)) ** 2)) for n in (h, w)))
    weight = np.bincount(pieces, middle.ravel(), count)[1:] * np.where(touching, 0.3, 1)
    seed = int(weight.argmax())
    dot = pen[seed] ** 2
    speck = area < 0.3 * dot
    if bands is not None or (area < 0.6 * dot).sum() > 4:
        speck = area < 0.6 * dot
    if bands is not None:
        near = cv2.dilate(bands, np.ones((5, 5), np.uint8))
        left_over = np.bincount(pieces, near.ravel(), count)[1:] > 0.6 * area
        speck |= (pen < 0.55 * pen[seed]) & (dark < 0.75 * dark[seed])
        speck |= (pen < 0.8 * pen[seed]) & left_over
        alike = (pen > 0.8 * pen[seed]) & (dark > 0.8 * dark[seed]) & (area >= 4 * dot)
    if outside is not None:
        speck |= np.bincount(pieces, outside.ravel(), count)[1:] > 0.6 * area
    alone = (
        bands is None and not touching.any()
    )  # nothing says that there is more than one character
    group = np.zeros(count - 1, bool)
    group[seed] = True
    # On lined paper dashes must not lead from one to the next: small pieces join last.
    rival = np.full(count - 1, np.inf)  # how far the next piece is that the border cuts
    if cut.any():
        aside = [
            np.maximum(0, np.maximum(a[:, None] - b[cut], a[cut] - b[:, None]))
            for a, b in ((x0, x1), (y0, y1))
        ]
        rival = np.where(touching, np.inf, np.hypot(*aside).min(1))
    rounds = [~speck & (area >= 4 * dot), ~speck] if bands is not None else [~speck]
    for allowed in rounds:
        reach = 0.07
        if bands is not None and allowed is rounds[0]:
            reach = np.where(alike, 0.17, 0.12)
        while True:
            a0, b0, a1, b1 = x0[group].min(), y0[group].min(), x1[group].max(), y1[group].max()
            dx = np.maximum(0, np.maximum(x0 - a1, a0 - x1))
            dy = np.maximum(0, np.maximum(y0 - b1, b0 - y1))
            shared = np.maximum(0, np.minimum(x1, a1) - np.maximum(x0, a0)) * np.maximum(
                0, np.minimum(y1, b1) - np.maximum(y0, b0)
            )
            gap = np.hypot(dx, dy)
            within = shared > 0.5 * width * height
            if bands is not None:
                near = np.where(touching, within, gap <= reach * side)
            else:
                far = side if alone else max(0.25 * max(a1 - a0, b1 - b0), 0.12 * side)
                near = np.where(cut, within | (gap < 0.02 * side), gap <= far)
                near &= ~touching | cut | (gap <= 0.06 * side)
                near &= gap <= rival
            grown = group | (near & allowed)
            if len(rounds) == 2 and allowed is rounds[1]:
                group = grown
                break
            if (grown == group).all():
                break
            group = grown
    keep = np.concatenate([[False], group])[labels].astype(np.uint8)
    marks = [
        Mark("speck" if speck[i] else "piece", _box(x0[i], y0[i], x1[i] - 1, y1[i] - 1))
        for i in np.flatnonzero(~group)
    ]
    others = ~group & ~speck & ~touching
    return keep, marks, bool(area[others].sum() > 0.5 * area[group].sum())


def _cut(labels: np.ndarray, ink: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tell which pieces (count - 1,) touch the border, and which of them it certainly cuts.

    A stroke that only just reaches the border of a tight crop has its faint edge there; a stroke
    that goes on is as strong there as a little further inside.
    """
    edge = inner = 0
    for turn in range(4):
        here, strength = np.rot90(labels, turn), np.rot90(ink, turn)
        touching = np.bincount(here[0], strength[0], count) + np.bincount(
            here[1], strength[1], count
        )
        edge = edge + np.bincount(here[0], strength[0], count)
        inner = inner + np.bincount(here[3], strength[3], count) * (touching > 0)
    height, width = labels.shape
    touching = np.zeros((2, 4, count), bool)
    for rim, deep in zip(touching, (2, 3), strict=True):
        sides = (labels[:deep], labels[-deep:], labels[:, :deep], labels[:, -deep:])
        for found, part in zip(rim, sides, strict=True):
            found[part.ravel()] = True
    # A neighbour's strokes may end just inside of the border; those of a tight crop do all around.
    wide = touching[1, :, 1:].any(1).sum() == 1
    touching = touching[int(wide)].any(0)
    return touching[1:], (touching & (edge >= 0.6 * inner))[1:]
