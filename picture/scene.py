"""Find the character on its paper: lines, frames, circles and pieces of neighbours are left out.

    ink (h,w) uint8, 0 = paper -> Scene: the ink of one character, and what was left out

The finder (finder.py) says of every pixel whether its ink was written, and for the character in the
middle. Ink falls into pieces: what is nearly all written, or nearly all foreign, is kept or left
out whole; only what is both, as strokes on a line are, is cut. Pieces that are surely another
character's are left out. Where the evidence is weak, all ink stays as it is.

numpy and OpenCV only. Left out: reading whole lines or pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from picture.finder import evidence

INK = 48  # of 255: from here on a pixel is ink
LONG = 0.3  # share of the side that a line has at least
# Log odds below which a piece is a neighbour's: one that the border cuts, a whole one.
SURE_CUT, SURE_WHOLE = -1, -4.5
DOUBT = 1.0  # log odds
SURE = 0.05  # a piece with this share of other ink, or less, is not cut
# Colours count from so many pixels of ink that is surely written and surely not; levels of noise.
SURE_INK, COLOUR_LEAST, COLOUR_NOISE, COLOUR_MOST = 2.0, 30, 2.0, 4.0


class Mark(NamedTuple):
    """What was left out."""

    kind: str  # line, piece, speck
    box: tuple[int, int, int, int]  # top, bottom, left, right


class Scene(NamedTuple):
    """A character without what stood around it."""

    ink: np.ndarray  # (h,w) uint8, 0 = paper
    marks: list[Mark]
    more: bool  # other whole characters were left out
    evidence: tuple[np.ndarray, ...] = ()  # of finder.py


class Pieces(NamedTuple):
    """Connected pieces of a mask: their numbers (h,w), from 1 on, and what is known of each."""

    labels: np.ndarray  # (h,w) int32, 0 = paper
    inked: np.ndarray  # (m,) where the mask is set, flat
    left: np.ndarray  # (n,) int32, as the rest
    top: np.ndarray
    width: np.ndarray
    height: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> Pieces:
        """Find the pieces of a mask (h,w) bool."""
        find = cv2.connectedComponentsWithStatsWithAlgorithm
        # Of the three algorithms this one is the fastest here, twice as fast as the default.
        _, labels, stats, _ = find(mask.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_BBDT)
        return cls(labels, np.flatnonzero(mask), *stats.T)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the means (n,) of values (h,w) over the pieces, 0 over the paper."""
        inked = self.inked
        return np.bincount(self.labels.take(inked), values.take(inked), len(self.area)) / self.area

    def mask(self, chosen: np.ndarray) -> np.ndarray:
        """Return where the pieces chosen (n,) bool are, (h,w) bool."""
        mask = np.zeros(self.labels.shape, bool)
        mask.put(self.inked, chosen.take(self.labels.take(self.inked)))
        return mask

    def inside(self) -> np.ndarray:
        """Tell which pieces (n,) do not reach the border."""
        h, w = self.labels.shape
        right, bottom = self.left + self.width, self.top + self.height
        return (np.minimum(self.left, self.top) > 1) & (right < w - 1) & (bottom < h - 1)

    def marks(self, kind: str, chosen: np.ndarray) -> list[Mark]:
        """Name pieces chosen (n,) bool."""
        found = np.stack([self.left, self.top, self.width, self.height], 1)[chosen].tolist()
        return [Mark(kind, (y, y + high, x, x + wide)) for x, y, wide, high in found]


def find_character(
    ink: np.ndarray, before: Sequence[np.ndarray] = (), picture: np.ndarray | None = None
) -> Scene:
    """Leave out what does not belong to the character in the middle.

    Args:
        ink: (h,w) uint8, 0 = paper, at most some hundred pixels a side.
        before: evidence of the same part of a larger picture, which counts as well.
        picture: (h,w,3) uint8, with the colours of the ink, if there are any.
    """
    mask = ink > INK
    found = evidence(ink)
    for part, more in zip(found, before, strict=False):
        part += cv2.resize(more, ink.shape[::-1])
    written, middle = found
    if picture is not None:
        written += _by_colour(picture, ink, mask, written)
    own, mixed = _whole(mask, mask & (written > 0))
    lines = mask & ~own
    _, _, wide, high = cv2.boundingRect(lines.view(np.uint8))
    long = max(wide, high) / max(ink.shape)
    if _is_tight(ink) and long < 0.75:
        return Scene(ink, [], False, found)
    if long < LONG:  # specks
        lines &= ~mixed
    pieces = Pieces.of(mask & ~lines)
    whole = pieces.inside()
    foreign = pieces.mean(middle) < np.where(whole, SURE_WHOLE, SURE_CUT)
    whole &= foreign
    # Among lines, what may be a remain of one is none of the character's.
    foreign |= _specks(pieces) if long < LONG else pieces.mean(written) < DOUBT
    foreign[0] = False  # paper
    marks = pieces.marks("piece", foreign)
    if np.count_nonzero(lines):
        rest = Pieces.of(lines)
        marks += rest.marks("speck" if long < LONG else "line", np.arange(len(rest.area)) > 0)
    keep = pieces.mask(~foreign).view(np.uint8)
    if not marks or not _plausible(keep, mask, long >= LONG):
        return Scene(ink, [], False, found)
    more = pieces.area[whole].sum() > 0.5 * np.count_nonzero(keep)
    keep = cv2.dilate(keep, np.ones((3, 3), np.uint8)) & ~lines.view(np.uint8)
    return Scene(ink * keep, marks, bool(more), found)


def _by_colour(
    picture: np.ndarray, ink: np.ndarray, mask: np.ndarray, written: np.ndarray
) -> np.ndarray:
    """Return what the colours of ink (h,w) add to the log odds that it was written.

    What surely was and what surely was not show how much the ink of either kind differs from the
    paper's colour, in proportion to its strength. Where they differ alike, nothing is added.
    """
    odds = np.zeros(ink.shape, np.float32)
    at = np.flatnonzero(mask)
    sure = written.take(at)
    kinds = sure > SURE_INK, sure < -SURE_INK
    if min(map(np.count_nonzero, kinds)) < COLOUR_LEAST:
        return odds
    picture = cv2.blur(picture, (3, 3))  # so does JPEG with the colours
    blue, green, red, _ = cv2.mean(picture, (~mask).view(np.uint8))
    tint = picture.reshape(-1, 3).take(at, 0).T.astype(np.float32, "C")  # (3,n)
    tint = tint[::2] - tint[1] - np.float32([[blue - green], [red - green]])  # (2,n)
    strength = cv2.blur(ink, (3, 3)).take(at) * np.float32(1 / 255)
    apart, noise = [], COLOUR_NOISE**2
    for chosen in kinds:
        by = strength * chosen
        rest = tint - (tint @ by / (by @ by))[:, None] * strength
        apart.append((rest * rest).sum(0))
        noise += apart[-1] @ chosen / (2 * np.count_nonzero(chosen))
    odds.put(at, np.clip((apart[1] - apart[0]) / (2 * noise), -COLOUR_MOST, COLOUR_MOST))
    return odds


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


def _specks(pieces: Pieces) -> np.ndarray:
    """Tell which pieces (n,) are smaller than a dot of the pen; where there are many, than most."""
    ink = (pieces.labels > 0).view(np.uint8)
    depth = cv2.distanceTransform(ink, cv2.DIST_L2, 3)
    pen = max(4 * depth.sum() / max(np.count_nonzero(ink), 1) - 2, 1)
    many = (pieces.area < 0.6 * pen**2).sum() > 4
    return pieces.area < (0.6 if many else 0.3) * pen**2


def _plausible(keep: np.ndarray, mask: np.ndarray, lined: bool) -> bool:
    """Tell whether the pieces kept (h,w) uint8 are a character, not a part of a tight crop.

    A tight crop touches the border wherever something is taken from it.
    """
    h, w = mask.shape
    left, top, wide, high = cv2.boundingRect(keep)
    margins = np.array([top, left, h - top - high, w - left - wide])
    if (margins < 2).sum() > (1 if lined else 0):
        return False
    enough = np.count_nonzero(keep) > 0.03 * np.count_nonzero(mask)
    return enough and max(high, wide) > 0.12 * max(h, w)


def _whole(mask: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep or drop pieces of ink (h,w) bool as a whole where hardly any is another's.

    Return what is kept, and the pieces that are cut.
    """
    pieces = Pieces.of(mask)
    share = pieces.mean(own)
    mixed = (share >= SURE) & (share <= 1 - SURE)
    if not mixed.any():
        return pieces.mask(share > 0.5), pieces.mask(mixed)
    mixed = pieces.mask(mixed)
    own = np.where(mixed, own, pieces.mask(share > 1 - SURE))
    # What is no larger than a dot beside a cut belongs to the other side of it.
    depth = cv2.distanceTransform(own.view(np.uint8), cv2.DIST_L2, 3)
    dot = (4 * depth.sum() / max(np.count_nonzero(own), 1)) ** 2  # the pen's width, squared
    for side in (True, False):
        parts = Pieces.of(mixed & (own == side))
        own ^= parts.mask(parts.area < 0.6 * dot)
    return _mended(own, mixed), mixed


def _mended(own: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Give strokes (h,w) bool back what they lost where a line crosses them."""
    lines = (mixed & ~own).view(np.uint8)
    depth = cv2.distanceTransform(lines, cv2.DIST_L2, 3)
    wide = round(
        4 * depth.sum() / max(np.count_nonzero(lines), 1)
    )  # the lines' width and one pixel
    for shape in ((wide, 1), (1, wide)):
        kernel = np.ones(shape, np.uint8)
        closed = cv2.morphologyEx(own.view(np.uint8), cv2.MORPH_CLOSE, kernel)
        own = own | (mixed & closed.view(bool))
    return own
