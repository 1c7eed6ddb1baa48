"""From a picture to what the network sees: the one preprocessing of train, test, predict and demo.

    bitmap (h,w) uint8, 255 = paper -> glyph (S,S) uint8, 0 = paper
    -> input (B,1,S,S) float in 0...1

    from model import to_input
    from picture import read_picture, to_glyph
    glyph = to_glyph(read_picture("photo.jpg"), size=64)
    logits = model(to_input(glyph[None]))

A picture that is not a clean scan (photo, grey paper, uneven light, white on black, transparency,
16 bit, a small character on a large page) is first brought to that form, and what stands around the
character is left out (scene.py); a clean HWDB bitmap passes that step unchanged. Then, for every
picture alike: crop to ink, keep the aspect ratio, letterbox with a margin, level the ink contrast.

Left out: reading several characters. Of a picture that holds more, the one in the middle is read.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from picture.scene import Pieces, Scene, find_character

# A clean scan, as HWDB's: much paper at exactly 255, next to nothing just below it.
CLEAN_PAPER = 0.35
CLEAN_NEAR_PAPER = 0.06
DENSE_PAPER = 0.15
STRIP_PAPER = 0.02
# Ink darker than this share of the darkest ink decides where the character ends.
INK_EDGE = 0.15
MANY = 1 << 20  # pixels
LINE = 200  # of a clean scan: a line is darker all along
# The character of an unclean picture is sought in at most so many looks, each at a picture of at
# most so many pixels a side, until it with some paper around takes more than a share of its side.
LOOKS = 3
ANALYSIS_SIDE = 320
SURROUNDINGS = 0.3
NEAR = 0.6
CROP = 192  # a larger picture is a page
# Faint ink: smoothed so far, px; of noise so many levels at least, so many times which ink stands
# above the paper; a stroke's area is so many times its width, squared.
FAINT_BLUR, FAINT_NOISE, FAINT, FAINT_LONG = 1.0, 0.25, 5.0, 5
BLANK = "blank picture: nothing darker or lighter than the paper was found"

Box = tuple[int, int, int, int]  # top, bottom, left, right


def to_grey(picture: np.ndarray) -> np.ndarray:
    """Bring any picture to (h,w) uint8 luminance; transparency becomes paper opposite to the ink.

    Pictures are (h,w), (h,w,1), (h,w,3) or (h,w,4); bool, uint8, uint16 in their full range, or
    float in 0...1, 0...255 or 0...65535. Three channels are BGR, a fourth one is opacity. Raises
    ValueError for another shape or type, or no pixels.
    """
    if picture.ndim == 3 and picture.shape[2] in (1, 2):
        picture = picture[..., 0]
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if picture.ndim not in (2, 3) or channels not in (1, 3, 4) or picture.size == 0:
        raise ValueError(f"picture of shape {picture.shape}, expected (h,w), (h,w,3) or (h,w,4)")
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    elif picture.dtype == bool or np.issubdtype(picture.dtype, np.floating):
        values = np.nan_to_num(picture.astype(np.float32), nan=0, posinf=0, neginf=0)
        highest = next((top for top in (1, 255, 65535) if values.max() <= top), 1)
        picture = (np.clip(values / highest, 0, 1) * 255).astype(np.uint8)
    elif picture.dtype != np.uint8:
        raise ValueError(f"picture of type {picture.dtype}, expected uint8, uint16, bool or float")
    if channels == 1:
        return picture
    grey = cv2.cvtColor(picture[..., :3], cv2.COLOR_BGR2GRAY)
    if channels == 3:
        return grey
    opacity = picture[..., 3]
    if opacity.min() == 255:
        return grey
    # Ink drawn on nothing: put paper of the other end under it, so that white ink stays visible.
    # A sheet that brings its own paper goes on as it is.
    solid = opacity > 127
    shades = grey[solid] if solid.any() else np.zeros(1, np.uint8)
    shades = shades[:: 1 + len(shades) // MANY]
    low, middle, high = np.percentile(shades, (2, 50, 98))
    _, _, width, height = cv2.boundingRect(solid.view(np.uint8))
    if high - low > 40 and solid.sum() > 0.6 * width * height:
        paper = float(middle)
    else:
        paper = 0.0 if shades.mean() > 127 else 255.0
    rows = 1 + MANY // grey.shape[1]
    for top in range(0, len(grey), rows):  # a part at a time: in floats all take a gigabyte
        part, alpha = grey[top : top + rows], opacity[top : top + rows] / np.float32(255)
        part[:] = part * alpha + paper * (1 - alpha) + 0.5
    return grey


def is_clean(grey: np.ndarray) -> bool:
    """Tell whether a picture is a clean scan already: paper exactly 255, little just below it.

    In a tight box, dense writing leaves less paper, and a level stroke next to none. The picture
    must not be mostly black then, which would be the paper of a light pen.
    """
    return _is_clean(_histogram(grey), grey.shape)


def _histogram(grey: np.ndarray) -> np.ndarray:
    """Return how many (256,) of a picture's pixels have each value."""
    return cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()


def _is_clean(histogram: np.ndarray, shape: tuple[int, ...]) -> bool:
    histogram = histogram / histogram.sum()
    if histogram[236:255].sum() > CLEAN_NEAR_PAPER:
        return False
    if histogram[:24].sum() >= 0.5:
        return histogram[255] >= CLEAN_PAPER
    strip = max(shape) > 2.5 * min(shape)
    return histogram[255] >= (STRIP_PAPER if strip else DENSE_PAPER)


def _find(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, Scene | None, Box]:
    """Return what is read (h',w') before and after cleaning, what was left out, the ink's box.

    A clean scan stays as it is. Otherwise the polarity is decided, the paper's brightness is
    estimated everywhere and taken away, what is no darker than its noise becomes 255, specks go,
    and what is no part of the character in the middle (scene.py). Raises ValueError if there is
    nothing but paper.
    """
    grey = to_grey(picture)
    colour = picture if picture.dtype == np.uint8 and picture.shape[2:] == (3,) else None
    histogram = _histogram(grey)
    if _is_clean(histogram, grey.shape):
        box = _ink_box(grey)
        if not _is_framed(grey, box):
            return grey, grey, None, box
        before, bitmap, scene = _search(grey, colour)
        if not scene.marks:
            return grey, grey, None, box
    else:
        # Light ink on paper of exactly 0, or nearly as JPEG keeps it, is a drawing: its straight
        # strokes are no lines.
        drawn = _is_clean(histogram[::-1], grey.shape) or 2 * histogram[:4].sum() > grey.size
        if drawn:
            light = 255 - grey
            drawn = not _is_framed(light, _ink_box(light))
        before, bitmap, scene = _search(grey, colour, drawn)
    return before, bitmap, scene, _ink_box(bitmap)


def _search(
    grey: np.ndarray, colour: np.ndarray | None, alone: bool = False
) -> tuple[np.ndarray, np.ndarray, Scene]:
    """Look for the character, ever closer; `alone` says that there is nothing else.

    `grey` (h,w) and, if it has colours, `colour` (h,w,3) are the same picture.
    """
    more, evidence, scene = False, (), None
    for _ in range(LOOKS):
        scale = min(1.0, ANALYSIS_SIDE / max(grey.shape))
        try:
            bitmap = lift(_reduce(grey, scale))
        except ValueError:
            if scene is None:
                raise
            break  # seen closer, faint ink has more noise: the look before has to do
        ink = 255 - bitmap
        tint = None if colour is None else _reduce(colour, scale)
        scene = Scene(ink, [], False) if alone else find_character(ink, evidence, tint)
        more |= scene.more
        top, bottom, left, right = _ink_box(255 - scene.ink, SURROUNDINGS)
        near = max(bottom - top, right - left) > NEAR * max(ink.shape)
        if near or (scale == 1 and not scene.marks):
            break
        evidence = [part[top:bottom, left:right] for part in scene.evidence]
        top, bottom, left, right = (round(v / scale) for v in (top, bottom, left, right))
        grey = grey[top:bottom, left:right]
        colour = None if colour is None else colour[top:bottom, left:right]
    return 255 - ink, 255 - scene.ink, scene._replace(more=more)


def _is_framed(grey: np.ndarray, box: Box) -> bool:
    """Tell whether two lines of a clean scan go all across its ink, level or upright.

    So do ruled lines and the sides of cells, and hardly ever strokes in a tight box.
    """
    top, bottom, left, right = box
    ink = grey[top:bottom, left:right]
    for across in (ink.max(0) < LINE, ink.max(1) < LINE):
        if np.count_nonzero(across) > 1 and (across[1:] & ~across[:-1]).sum() + across[0] > 1:
            return True
    return False


def _reduce(grey: np.ndarray, scale: float) -> np.ndarray:
    """Make a picture (h,w) or (h,w,3) smaller, but no side less than a pixel."""
    if scale == 1:
        return grey
    h, w = (max(1, round(side * scale)) for side in grey.shape[:2])
    return cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA)


def lift(grey: np.ndarray) -> np.ndarray:
    """Return ink on 255 from a picture of at most `ANALYSIS_SIDE`; see `_find`."""
    if _is_inverted(grey):
        grey = 255 - grey
    ink = cv2.subtract(_paper(grey), grey)
    threshold, _ = cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    histogram = _histogram(ink)
    shades = np.arange(256)
    floor, dark = histogram * (shades <= threshold), histogram * (shades > threshold)
    level = float(floor @ shades / max(floor.sum(), 1))
    noise = float(np.sqrt(floor @ (shades - level) ** 2 / max(floor.sum(), 1)))
    strength, full = (
        float(np.searchsorted(dark.cumsum(), share * dark.sum())) for share in (0.5, 0.95)
    )
    if strength - level < max(10.0, 4 * noise):
        return _lift_faint(ink)
    low = level + 2 * noise  # below: paper; from there ink grows to full strength
    table = 255 - np.clip((shades - low) / max(full - low, 1.0), 0, 1) * 255
    bitmap = cv2.LUT(ink, table.astype(np.uint8))
    return _drop_specks(bitmap, (ink > (threshold + low) / 2).view(np.uint8))


def _lift_faint(ink: np.ndarray) -> np.ndarray:
    """Return ink (h,w) uint8 that is hardly stronger than the paper's noise, on 255.

    Smoothed, strokes stand out where noise does not. What was written are pieces off the border,
    some of them strokes: far longer than they are wide.
    """
    soft = cv2.GaussianBlur(ink.astype(np.float32), (0, 0), FAINT_BLUR)
    below, level = np.percentile(soft, (15.9, 50))
    noise = max(level - below, FAINT_NOISE)
    mask = soft > level + FAINT * noise
    pieces = Pieces.of(mask)
    wide = 4 * pieces.mean(cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 3))
    kept = pieces.inside()
    kept[0] = False  # paper
    strokes = kept & (pieces.area > FAINT_LONG * wide**2)
    if not strokes.any():
        raise ValueError(BLANK)
    mask = pieces.mask(kept)
    low, full = level + 2 * noise, np.percentile(soft[mask], 95)
    bitmap = (255 - np.clip((soft - low) / (full - low), 0, 1) * 255).astype(np.uint8)
    return _drop_specks(bitmap, mask.view(np.uint8))


def _paper(grey: np.ndarray) -> np.ndarray:
    """Return the brightness that the paper has or would have at every pixel, (h,w) uint8.

    Closing fills what is dark and narrower than the kernel, and keeps the edges of shadows.
    """
    side = max(3, max(grey.shape) // 4 | 1)  # an even kernel moves edges by a pixel
    # What is dark at the border goes on beyond it if this is a page: it is a shadow. At the border
    # of a crop it is a stroke.
    rim = side // 2 if max(grey.shape) > CROP else 0
    around = (rim, rim, rim, rim)
    page = cv2.copyMakeBorder(cv2.medianBlur(grey, 3), *around, cv2.BORDER_REPLICATE)
    page = cv2.morphologyEx(page, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return page[rim : rim + grey.shape[0], rim : rim + grey.shape[1]]


def _is_inverted(grey: np.ndarray) -> bool:
    """Tell whether ink is lighter than paper, after light and shadow are taken away.

    That is a plane of light and, if ink then seems to be light, what most of the surroundings have,
    since a shadow's edge is far from a plane.
    """
    step = -(-max(grey.shape) // 96)
    values = grey[::step, ::step].astype(np.float32)
    thumb = cv2.resize(values, (24, 24), interpolation=cv2.INTER_AREA)
    slope = _slope(24)
    right, down = (slope @ thumb.mean(axis) / (slope @ slope) for axis in (0, 1))
    h, w = values.shape
    values -= right * _slope(w)
    values -= down * _slope(h)[:, None]
    if not _is_light(values):
        return False
    shades = (values + (128 - values.mean())).clip(0, 255).astype(np.uint8)
    return _is_light(shades - cv2.medianBlur(shades, 1 + max(h, w) // 4 * 2).astype(np.float32))


def _is_light(values: np.ndarray) -> bool:
    """Tell whether the rarest values (h,w), of ink, are above the median rather than below."""
    shades = np.sort(values, None)  # np.percentile takes five times as long
    low, middle, high = (shades[round(q * (len(shades) - 1))] for q in (0.005, 0.5, 0.995))
    if max(high - middle, middle - low) < 4:  # the ink is less than 0.5 % of the page
        low, high = shades[0], shades[-1]
    return high - middle > middle - low


@lru_cache(maxsize=256)
def _slope(count: int) -> np.ndarray:
    """Return `count` steps (n,) float32 from -0.5 to 0.5."""
    return np.linspace(-0.5, 0.5, count, dtype=np.float32)


def _drop_specks(bitmap: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Make paper of all ink that hangs on no piece of at least 0.5 % of the ink."""
    grown = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    count, pieces = cv2.connectedComponents(grown, connectivity=8, ltype=cv2.CV_16U)
    ink = np.bincount(pieces.take(np.flatnonzero(mask)), minlength=count)
    drop = np.where(ink < 0.005 * ink.sum(), 255, 0).astype(np.uint8)
    drop[0] = 255  # paper
    return bitmap | drop.take(pieces)


def _ink_box(bitmap: np.ndarray, margin: float = 0.0) -> Box:
    """Return top, bottom, left, right of the ink, widened by a share of its longer side."""
    darkest = 255 - int(bitmap.min())
    if darkest < 10:
        raise ValueError(BLANK)
    ink = bitmap < 255 - INK_EDGE * darkest
    left, top, width, height = cv2.boundingRect(ink.view(np.uint8))
    right, bottom = left + width, top + height
    extra = round(margin * max(bottom - top, right - left))
    return (
        max(0, top - extra),
        min(bitmap.shape[0], bottom + extra),
        max(0, left - extra),
        min(bitmap.shape[1], right + extra),
    )


class Found(NamedTuple):
    """A glyph, and how it was found."""

    glyph: np.ndarray  # (S,S) uint8, 0 = paper
    picture: np.ndarray  # (h,w) uint8, 255 = paper: where it was found
    scene: Scene | None  # what was left out there; None for a clean scan

    @property
    def notices(self) -> list[str]:
        """Sentences for the user."""
        more = "the picture holds more characters; the one in the middle is read"
        return [more] if self.scene and self.scene.more else []

    def view(self) -> np.ndarray:
        """Return the picture (h,w,3) BGR with boxes: green is read, red and orange left out."""
        view = cv2.cvtColor(self.picture, cv2.COLOR_GRAY2BGR)
        if self.scene:
            for mark in self.scene.marks:
                top, bottom, left, right = mark.box
                colour = (0, 0, 255) if mark.kind in ("line", "circle") else (0, 140, 255)
                cv2.rectangle(view, (left, top), (right - 1, bottom - 1), colour, 1)
        read = self.picture if self.scene is None else 255 - self.scene.ink
        top, bottom, left, right = _ink_box(read)
        cv2.rectangle(view, (left, top), (right - 1, bottom - 1), (0, 160, 0), 1)
        return view


def to_glyph(picture: np.ndarray, size: int = 64, margin: int | None = None) -> np.ndarray:
    """Bring one picture (see `to_grey`) of one character to the form the network reads.

    Returns a glyph (S,S) uint8, S = `size`: 0 = paper, ink levelled so that its 95th percentile is
    255; the longer side of the ink fills S - 2 * margin, S / 32 by default, and the character is
    centred. Raises ValueError for what is blank or no picture.
    """
    return find_glyph(picture, size, margin).glyph


def find_glyph(picture: np.ndarray, size: int = 64, margin: int | None = None) -> Found:
    """Return the glyph of a picture as `to_glyph` does, and what was left out of the picture."""
    margin = size // 32 if margin is None else margin
    before, bitmap, scene, box = _find(picture)
    top, bottom, left, right = box
    ink = 255 - bitmap[top:bottom, left:right]
    h, w = ink.shape
    scale = (size - 2 * margin) / max(h, w)
    width, height = max(1, round(w * scale)), max(1, round(h * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    ink = cv2.resize(ink, (width, height), interpolation=interpolation)
    glyph = np.zeros((size, size), np.uint8)
    y, x = (size - height) // 2, (size - width) // 2
    glyph[y : y + height, x : x + width] = level(ink)
    return Found(glyph, before, scene)


def level(ink: np.ndarray) -> np.ndarray:
    """Scale ink (h,w) uint8, 0 = paper, so that the 95th percentile of its inked pixels is 255.

    Thin strokes fade when a picture is made smaller; this brings them back to full strength.
    """
    histogram = np.bincount(ink.ravel(), minlength=256)
    histogram[: int(ink.max()) // 4 + 1] = 0  # edges and noise say nothing of the ink's strength
    total = histogram.cumsum()
    strength = int(np.searchsorted(total, 0.95 * total[-1])) or 1
    return cv2.convertScaleAbs(ink, alpha=255 / strength)
