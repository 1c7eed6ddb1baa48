"""Proposals of which ink in a picture belongs to the character.

The first proposal keeps all ink. Each other one leaves something out: a frame at the border, ink of
another colour, pale or thin ink, long lines, components that reach the border, specks, what lies
off the middle. The network reads all proposals, and the recognizer chooses the one that looks most
like a character. A clean scan has one proposal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from picture.glyph import at_border, components, find_ink, fit, ink_box

LONG = 1.45  # times as long as wide: ink that may be several characters
INK = 48  # of 255: ink from here on
LEAST_AREA, LEAST_SHARE = 20, 0.06  # px and share of the ink that a proposal keeps
LINED = 0.9  # share of a row that is ink in a line from side to side
AROUND = 0.8  # of both sides: what is larger and thin goes around the character
FRAME = 0.15  # a frame lies within this share of the side
LINE, TILT = 0.35, 2  # a line's least length, of the side; px that it leaves its row by
DARK, THICK = 0.55, 0.6  # of the ink's strength and the strokes' width: less is left out
MIDDLE = 0.34  # of the shorter side: components whose centre is farther from the middle are off it
# A proposal leaves out at least LEAST_RIM px of ink within RIM px of the border, or its box is
# smaller than this share of the box of all ink.
RIM, LEAST_RIM, SMALLER = 2, 3, 0.5
SPECK = 0.8  # of the squared width of a stroke
# The prior of a proposal, in logits. A character without a stroke looks like a simpler one. So a
# glyph all of ink would earn DENSITY; leaving ink out costs PRIOR, and CUT times the px left out
# around what is kept (within NEAR of its longer side) per px kept, MOST of them at most.
DENSITY, PRIOR, CUT, NEAR, MOST = 20.0, 4.0, 3.0, 0.125, 1.0


class Proposals(NamedTuple):
    """Proposals of what the character of a picture is; the first keeps all ink."""

    glyphs: np.ndarray  # (P,S,S) uint8, 0 = paper
    inks: list[np.ndarray]  # P times (h,w) uint8, 0 = paper: the ink that each keeps
    priors: np.ndarray  # (P,) float32, logits that speak for each before it is read

    def view(self, index: int) -> np.ndarray:
        """Return the picture (h,w,3) BGR: black is what a proposal keeps, red what it leaves out.

        A green box is what it crops.
        """
        ink, kept = self.inks[0], self.inks[index]
        view = np.dstack([255 - ink, 255 - ink, 255 - kept])
        top, bottom, left, right = ink_box(kept)
        cv2.rectangle(view, (left, top), (right - 1, bottom - 1), (0, 160, 0), 1)
        return view

    def holds_more(self, index: int) -> bool:
        """Return whether the ink that a proposal leaves out holds another character.

        That is what does not reach the border, stands beside what is kept, and is about as large.
        """
        top, bottom, left, right = ink_box(self.inks[index])
        side = max(bottom - top, right - left)
        rest = (_without_lines(self.inks[0] - self.inks[index]) > INK).view(np.uint8)
        labels, stats = components(rest)
        inside = ~at_border(stats, rest.shape)
        inside[0] = False
        near = np.ones((side // 8 | 1,) * 2, np.uint8)
        _, stats = components(cv2.dilate(inside[labels].view(np.uint8), near))
        x, y, wide, high, _ = stats.T
        beside = (x > right) | (x + wide < left) | (y > bottom) | (y + high < top)
        large = (np.maximum(wide, high) > 0.4 * side) & (np.minimum(wide, high) > 0.3 * side)
        return bool((beside & large)[1:].any())

    def parts(self, index: int) -> list[np.ndarray]:
        """Return the ink of a proposal cut into squares where it may be several characters.

        So it is if it is long, and has gaps about where its characters would end. Else: none.
        """
        top, bottom, left, right = ink_box(self.inks[index])
        ink = self.inks[index][top:bottom, left:right]
        axis = int(np.argmax(ink.shape))
        long, short = ink.shape[axis], ink.shape[1 - axis]
        gaps = np.flatnonzero((ink <= INK).all(1 - axis))
        if long < LONG * short or not len(gaps):
            return []
        count = max(2, round(long / short))
        ends = long * np.arange(1, count) / count
        cuts = gaps[abs(gaps[:, None] - ends).argmin(0)]
        parts = np.split(ink, cuts, axis)
        fits = (abs(cuts - ends) < long / count / 4).all()
        return parts if fits and all((part > INK).any() for part in parts) else []


def find_proposals(picture: np.ndarray, size: int = 64) -> Proposals:
    """Return the proposals of a picture; the first glyph is `picture.to_glyph(picture, size)`.

    Raises ValueError for what is blank or no picture.
    """
    ink, colour, clean = find_ink(picture)
    inks = [ink, *_versions(ink, colour)] if not clean or _is_lined(ink) else [ink]
    glyphs = np.stack([fit(kept, size) for kept in inks])
    priors = DENSITY / 255 * glyphs.mean((1, 2), dtype=np.float32)
    priors[1:] -= [PRIOR + CUT * min(_cut(ink, kept), MOST) for kept in inks[1:]]
    return Proposals(glyphs, inks, priors)


def _cut(ink: np.ndarray, kept: np.ndarray) -> float:
    """Return how many px of `ink` are left out around those that are `kept`, per px kept."""
    top, bottom, left, right = ink_box(kept, NEAR)
    here = np.s_[top:bottom, left:right]
    most = np.count_nonzero(ink[here] > INK)
    return most / np.count_nonzero(kept[here] > INK) - 1


def _is_lined(ink: np.ndarray) -> bool:
    """Return whether lines run along the sides of a clean scan (h,w): two, level or upright.

    In tight crops of HWDB so do strokes of one sample in a thousand.
    """
    mask = (ink > INK).view(np.uint8)
    count = 0
    for axis in (0, 1):
        lined = cv2.reduce(mask, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel() > LINED
        third = int(0.3 * len(lined))
        lined[third : len(lined) - third] = False
        count += int(lined[0]) + np.count_nonzero(lined[1:] & ~lined[:-1])
    return count > 1


def _versions(ink: np.ndarray, colour: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield ink (h,w) uint8 with less and less of it, none twice.

    What is left out must stand around the rest: it reaches the border, or the box of the rest is
    much smaller. That spares a character alone on its paper, whose strokes may look like lines.
    """
    if not (ink > INK).any():
        return
    all_area, all_rim, all_size, box = _extent(ink)
    if _is_tight(ink):
        all_rim = 0  # what reaches the border does not go on beyond it
    dark = ink * (ink >= DARK * np.percentile(ink[ink > INK], 95))
    bases = ink, _without_lines(ink, FRAME), *_by_colour(ink, colour), dark, _thick(ink)
    versions = [version for base in bases for version in (base, _without_lines(base))]
    seen = {(32, box)}
    for version in {version.tobytes(): version for version in versions}.values():
        for part in _parts(version):
            area, rim, size, box = _extent(part)
            stands_out = all_rim - rim >= LEAST_RIM or size < SMALLER * all_size
            large = area >= max(LEAST_AREA, LEAST_SHARE * all_area)
            key = 32 * area // all_area, box
            if large and stands_out and key not in seen:
                seen.add(key)
                yield part


def _extent(ink: np.ndarray) -> tuple[int, int, int, tuple[int, ...]]:
    """Return the px of ink, those within RIM of the border, those of its box, and a coarse box."""
    mask = ink > INK
    area = np.count_nonzero(mask)
    rim = area - np.count_nonzero(mask[RIM:-RIM, RIM:-RIM])
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    box = left // 4, top // 4, (left + width) // 4, (top + height) // 4
    return area, rim, width * height, box


def _is_tight(ink: np.ndarray) -> bool:
    """Return whether a picture was cropped to its ink: strokes just reach two or more sides.

    What goes on beyond the border is as strong there as three pixels further inside. The side of a
    frame does not count.
    """
    grazed = 0
    for rows in (ink, ink[::-1], ink.T, ink.T[::-1]):
        framed = (rows[: int(FRAME * len(rows)) + 1] > INK).mean(1).max() > LINED
        if len(rows) > 3 and rows[:2].max() > INK and not framed:
            grazed += 2 * int(rows[0].sum()) < int(rows[3].sum())
    return grazed >= 2


def _parts(ink: np.ndarray) -> Iterator[np.ndarray]:
    """Yield ink (h,w) without some of its components.

    Left out are those that reach the border or go all around, are smaller than a dot of the pen, or
    lie off the middle.
    """
    mask = (ink > INK).view(np.uint8)
    labels, stats = components(mask)
    left, top, width, height, area = stats.T
    pen = 4 * cv2.mean(cv2.distanceTransform(mask, cv2.DIST_L2, 3), mask)[0]
    h, w = ink.shape
    around = (width > AROUND * w) & (height > AROUND * h) & (area < 0.3 * width * height)
    inside = ~at_border(stats, ink.shape) & ~around
    large = area >= SPECK * pen**2
    away = [abs(at + side / 2 - n / 2) for at, side, n in ((left, width, w), (top, height, h))]
    middle = np.maximum(*away) < MIDDLE * min(h, w)
    everything = np.ones(len(area), bool)
    choices = [everything, inside, inside & large, inside & large & middle, large & middle]
    for kept in {kept.tobytes(): kept for kept in choices}.values():
        kept[0] = False  # paper
        if kept.any():
            yield ink * kept[labels]


def _without_lines(ink: np.ndarray, zone: float = 0.5) -> np.ndarray:
    """Leave out long level and upright lines, also slightly tilted; strokes across them stay.

    Only lines along the sides count, within `zone` of the width or height.
    """
    mask = (ink > INK).view(np.uint8)
    lines = np.zeros_like(mask)
    for turned in (False, True):
        m = np.ascontiguousarray(mask.T) if turned else mask
        long = np.ones((1, max(8, int(LINE * m.shape[1]))), np.uint8)
        thick = cv2.dilate(m, np.ones((2 * TILT + 1, 1), np.uint8))
        line = cv2.morphologyEx(thick, cv2.MORPH_OPEN, long)
        line = cv2.erode(line, np.ones((2 * TILT - 1, 1), np.uint8)) & m
        outer = int(zone * len(m)) + 1
        line[outer : len(m) - outer] = 0
        if not line.any():
            continue
        depth = cv2.distanceTransform(line, cv2.DIST_L2, 3)
        width = max(2, int(2 * np.median(depth[depth > 0]) + 1))
        across = cv2.morphologyEx(m, cv2.MORPH_OPEN, np.ones((3 * width + 2, 1), np.uint8))
        gap = np.ones((width + 3, 1), np.uint8)
        line &= 1 - (across | cv2.morphologyEx(m & ~line, cv2.MORPH_CLOSE, gap))
        lines |= line.T if turned else line
    return ink * (lines == 0)


def _thick(ink: np.ndarray) -> np.ndarray:
    """Leave out ink that is thin beside the rest."""
    mask = (ink > 64).view(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    ridge = depth[(depth == cv2.dilate(depth, np.ones((3, 3)))) & (depth > 0)]
    if not len(ridge):
        return ink
    radius = max(1, int(THICK * np.percentile(ridge, 85)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc)
    return ink * cv2.dilate(opened, np.ones((3, 3), np.uint8))


def _by_colour(ink: np.ndarray, colour: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield ink without its more, and without its less colourful part, where there are two."""
    if colour is None:
        return
    inked, (blue, green, red) = ink > INK, cv2.split(colour)
    strength = cv2.max(cv2.max(blue, green), red) - cv2.min(cv2.min(blue, green), red)
    if strength[inked].std() < 12:
        return
    limit, _ = cv2.threshold(strength[inked][None], 0, 255, cv2.THRESH_OTSU)
    yield ink * (strength <= limit)
    yield ink * (strength > limit)
