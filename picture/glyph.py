"""From a picture to a glyph: the same preprocessing in training, evaluation and prediction.

    picture (h,w), (h,w,3) or (h,w,4) -> ink (h,w) uint8, 0 = paper -> glyph (S,S) uint8, 0 = paper

`find_ink` inverts a clean scan, as HWDB's, and brings everything else (photos, grey paper, uneven
light, white on black, transparency, 16 bit, a small character on a large page) to the same form.
`fit` crops to the ink, keeps the aspect ratio, letterboxes with a margin, and levels the contrast.
"""

from __future__ import annotations

import cv2
import numpy as np

# A clean scan, as HWDB's: much paper at exactly 255, next to nothing just below it.
CLEAN_PAPER = 0.35
CLEAN_NEAR_PAPER = 0.06
DENSE_PAPER = 0.15
STRIP_PAPER = 0.02
# Ink darker than this share of the darkest ink decides where the character ends.
INK_EDGE = 0.15
FLAT = 0.3  # share of the pixels that have the one grey of flat paper
MANY = 1 << 20  # pixels
# A picture that is no clean scan is analysed at a reduced size, then its inked part again.
LOOKS = 3  # times at most
ANALYSIS_SIDE = 320  # px, the longer side
SURROUNDINGS = 0.3  # paper that is kept around the ink, of its longer side
NEAR = 0.6  # no closer look if ink with its surroundings takes more than this share of a side
CROP = 192  # px; a larger picture is a page
FAINT_BLUR = 1.0  # px, by which faint ink is smoothed
FAINT_NOISE = 0.25  # levels, the least noise that is assumed
FAINT = 5.0  # times the noise, by which faint ink is darker than the paper
FAINT_LONG = 5  # squared widths, the least area of a stroke
BLANK = "blank picture: nothing darker or lighter than the paper was found"


def to_grey(picture: np.ndarray) -> np.ndarray:
    """Bring any picture to (h,w) uint8 luminance; transparency becomes paper opposite to the ink.

    Pictures are (h,w) or (h,w,C) with C = 1: grey, 2: grey and opacity, 3: BGR, 4: BGR and opacity;
    bool, uint8, uint16 in their full range, or float in 0...1, 0...255 or 0...65535. Raises
    ValueError for another shape or type, or no pixels.
    """
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if picture.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or picture.size == 0:
        raise ValueError(f"picture of shape {picture.shape}, expected (h,w), (h,w,3) or (h,w,4)")
    if picture.dtype.type is np.uint16:  # in either byte order
        picture = (picture >> 8).astype(np.uint8)
    elif picture.dtype == bool or np.issubdtype(picture.dtype, np.floating):
        values = np.nan_to_num(picture.astype(np.float32), nan=0, posinf=0, neginf=0)
        highest = next((top for top in (1, 255, 65535) if values.max() <= top), 1)
        picture = (np.clip(values / highest, 0, 1) * 255).astype(np.uint8)
    elif picture.dtype != np.uint8:
        raise ValueError(f"picture of type {picture.dtype}, expected uint8, uint16, bool or float")
    if channels == 1:
        return picture.reshape(picture.shape[:2])
    if channels == 2:
        grey = picture[..., 0].copy()
    else:
        grey = cv2.cvtColor(picture[..., :3], cv2.COLOR_BGR2GRAY)
    if channels == 3 or (opacity := picture[..., -1]).min() == 255:
        return grey
    paper = _paper_under(grey, opacity > 127)
    rows = 1 + MANY // grey.shape[1]
    for top in range(0, len(grey), rows):  # a part at a time: in floats all take a gigabyte
        part, alpha = grey[top : top + rows], opacity[top : top + rows] / np.float32(255)
        part[:] = part * alpha + paper * (1 - alpha) + 0.5
    return grey


def _paper_under(grey: np.ndarray, solid: np.ndarray) -> float:
    """Return the shade to put under what is transparent, given what is `solid` (h,w) bool.

    The edges of ink are closest to its paper: if they are lighter or darker than the rest, that is
    the end at which the paper is. If all is one shade, the paper is at the other end. A sheet that
    brings its own paper, which fills its box and has paper along its edges, goes on with that.
    """
    if not solid.any():
        return 255.0
    left, top, width, height = cv2.boundingRect(solid.view(np.uint8))
    step = 1 + int(max(width, height)) // 1024
    box = np.s_[top : top + height : step, left : left + width : step]
    solid, grey = solid[box], grey[box]
    shades = grey[solid].astype(np.float32)
    near = cv2.copyMakeBorder(solid.view(np.uint8) * 255, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    near = cv2.blur(near, (3, 3))[1:-1, 1:-1][solid]  # less than 255 at an edge
    low, middle, high = np.percentile(shades, (2, 50, 98))
    edge = float(shades[near < 255].mean()) if (near < 255).any() else float(middle)
    if high - low > 40 and solid.mean() > 0.6 and abs(edge - middle) < 20:
        return float(middle)
    if shades.std() > 8 and near.std() > 0:
        inwards = np.corrcoef(shades, near)[0, 1]  # lighter or darker, away from the edges
        if abs(inwards) > 0.2:
            return 255.0 if inwards < 0 else 0.0
    return 0.0 if shades.mean() > 127 else 255.0


def is_clean(grey: np.ndarray) -> bool:
    """Return whether a picture (h,w) is a clean scan: paper exactly 255, little just below it.

    In a tight box, dense writing leaves less paper, and a level stroke next to none. The picture
    must not be mostly black then, which would be the paper of a light pen.
    """
    histogram = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() / grey.size
    if histogram[236:255].sum() > CLEAN_NEAR_PAPER:
        return False
    if histogram[:24].sum() >= 0.5:
        return histogram[255] >= CLEAN_PAPER
    if histogram[24:236].max() > max(FLAT, histogram[255]):
        return False
    strip = max(grey.shape) > 2.5 * min(grey.shape)
    return histogram[255] >= (STRIP_PAPER if strip else DENSE_PAPER)


def find_ink(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Return the ink (h,w) uint8 of a picture, its BGR (h,w,3) if any, and if it is a clean scan.

    The ink of a clean scan is the scan inverted. Otherwise paper, noise and specks are taken away
    (see `lift`), and only the inked part is returned: a large picture is searched at a reduced size
    first, then its inked part again at a larger one. Raises ValueError if there is only paper.
    """
    grey = to_grey(picture)
    if is_clean(grey):
        return 255 - grey, None, True
    coloured = picture.dtype == np.uint8 and picture.shape[2:] == (3,)
    layers = [grey, picture] if coloured else [grey]
    found = None
    for _ in range(LOOKS):
        h, w = layers[0].shape
        scale = min(1.0, ANALYSIS_SIDE / max(h, w))
        small = max(1, round(w * scale)), max(1, round(h * scale))
        reduced = [cv2.resize(layer, small, interpolation=cv2.INTER_AREA) for layer in layers]
        try:
            ink = 255 - lift(reduced[0])
        except ValueError:
            if found is None:
                raise
            break  # faint ink of a closer look has more noise: keep the look before
        found = ink, reduced[1] if coloured else None, False
        top, bottom, left, right = ink_box(ink, SURROUNDINGS)
        if scale == 1 or max(bottom - top, right - left) > NEAR * max(ink.shape):
            break
        top, bottom, left, right = (round(v / scale) for v in (top, bottom, left, right))
        layers = [layer[top:bottom, left:right] for layer in layers]
    return found


def lift(grey: np.ndarray) -> np.ndarray:
    """Return ink (h,w) uint8 on 255 = paper, from a picture of at most `ANALYSIS_SIDE`.

    The polarity is decided, the paper's brightness is estimated everywhere and subtracted, what is
    no darker than the noise becomes paper, and specks are removed.
    """
    histogram = cv2.calcHist([grey], [0], None, [256], [0, 256])
    shade = 1 + int(histogram[1:255].argmax())
    flat = histogram[shade] >= FLAT * grey.size  # paper of exactly one grey, as on a screen
    if grey.mean() >= shade if flat else _is_inverted(grey):
        grey, shade = 255 - grey, 255 - shade
    ink = cv2.subtract(np.full_like(grey, shade) if flat else _paper(grey), grey)
    threshold, _ = cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    paper, dark = ink[ink <= threshold], ink[ink > threshold]
    if not len(dark):
        raise ValueError(BLANK)
    level, noise = paper.mean(), paper.std()
    strength, full = np.percentile(dark, (50, 95), method="inverted_cdf")
    if strength - level < max(10.0, 4 * noise):
        return _lift_faint(ink)
    low = level + 2 * noise  # below: paper; from there ink grows to full strength
    table = 255 - np.clip((np.arange(256) - low) / max(full - low, 1.0), 0, 1) * 255
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
    labels, stats = components(mask.view(np.uint8))
    area = stats[:, cv2.CC_STAT_AREA]
    depth = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 3)
    width = 4 * np.bincount(labels.ravel(), depth.ravel(), len(area)) / area
    kept = ~at_border(stats, mask.shape)
    kept[0] = False  # paper
    if not (kept & (area > FAINT_LONG * width**2)).any():
        raise ValueError(BLANK)
    mask = kept[labels]
    low, full = level + 2 * noise, np.percentile(soft[mask], 95)
    bitmap = (255 - np.clip((soft - low) / (full - low), 0, 1) * 255).astype(np.uint8)
    return _drop_specks(bitmap, mask.view(np.uint8))


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (h,w) int32 and statistics (n,5) of the connected components of a mask (h,w).

    Component 0 is the paper; the columns are OpenCV's: left, top, width, height, area.
    """
    find = cv2.connectedComponentsWithStatsWithAlgorithm
    _, labels, stats, _ = find(mask, 8, cv2.CV_32S, cv2.CCL_BBDT)  # twice as fast as the default
    return labels, stats


def at_border(stats: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return which components (n,) bool reach the border, within a pixel."""
    left, top, width, height, _ = stats.T
    h, w = shape
    return (np.minimum(left, top) <= 1) | (left + width >= w - 1) | (top + height >= h - 1)


def _paper(grey: np.ndarray) -> np.ndarray:
    """Return the brightness that the paper has or would have at every pixel, (h,w) uint8.

    Closing fills what is dark and narrower than the kernel, and keeps the edges of shadows.
    """
    side = max(3, max(grey.shape) // 4 | 1)  # an even kernel moves edges by a pixel
    # What is dark at the border of a page is a shadow that goes on beyond it; of a crop, a stroke.
    rim = side // 2 if max(grey.shape) > CROP else 0
    page = cv2.copyMakeBorder(cv2.medianBlur(grey, 3), *[rim] * 4, cv2.BORDER_REPLICATE)
    page = cv2.morphologyEx(page, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return page[rim : rim + grey.shape[0], rim : rim + grey.shape[1]]


def _is_inverted(grey: np.ndarray) -> bool:
    """Return whether ink is lighter than paper, after light and shadow are taken away.

    That is a plane of light and, if ink then seems to be light, what most of the surroundings have,
    since a shadow's edge is far from a plane.
    """
    step = -(-max(grey.shape) // 96)
    values = grey[::step, ::step].astype(np.float32)
    thumb = cv2.resize(values, (24, 24), interpolation=cv2.INTER_AREA)
    slope, across, along = (
        np.linspace(-0.5, 0.5, count, dtype=np.float32) for count in (24, *values.shape[::-1])
    )
    right, down = (slope @ thumb.mean(axis) / (slope @ slope) for axis in (0, 1))
    values -= right * across
    values -= down * along[:, None]
    if not _is_light(values):
        return False
    shades = (values + (128 - values.mean())).clip(0, 255).astype(np.uint8)
    around = cv2.medianBlur(shades, 1 + max(values.shape) // 4 * 2)
    return _is_light(shades - around.astype(np.float32))


def _is_light(values: np.ndarray) -> bool:
    """Return whether the rarest values (h,w), of ink, are above the median rather than below."""
    shades = np.sort(values, None)  # np.percentile takes five times as long
    low, middle, high = (shades[round(q * (len(shades) - 1))] for q in (0.005, 0.5, 0.995))
    if max(high - middle, middle - low) < 4:  # the ink is less than 0.5 % of the page
        low, high = shades[0], shades[-1]
    return high - middle > middle - low


def _drop_specks(bitmap: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Make paper of all ink that hangs on no piece of at least 0.5 % of the ink."""
    grown = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    count, pieces = cv2.connectedComponents(grown, connectivity=8, ltype=cv2.CV_16U)
    ink = np.bincount(pieces.take(np.flatnonzero(mask)), minlength=count)
    drop = np.where(ink < 0.005 * ink.sum(), 255, 0).astype(np.uint8)
    drop[0] = 255  # paper
    return bitmap | drop.take(pieces)


def ink_box(ink: np.ndarray, margin: float = 0.0) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of ink (h,w) uint8, widened by a share of its longer side.

    Raises ValueError if there is none.
    """
    darkest = int(ink.max())
    if darkest < 10:
        raise ValueError(BLANK)
    left, top, width, height = cv2.boundingRect((ink > INK_EDGE * darkest).view(np.uint8))
    right, bottom = left + width, top + height
    extra = round(margin * max(height, width))
    top, left = max(0, top - extra), max(0, left - extra)
    return top, min(ink.shape[0], bottom + extra), left, min(ink.shape[1], right + extra)


def to_glyph(picture: np.ndarray, size: int = 64, margin: int | None = None) -> np.ndarray:
    """Bring one picture (see `to_grey`) of one character to the form the network reads.

    Returns a glyph (S,S) uint8, S = `size`: 0 = paper, ink levelled so that its 95th percentile is
    255; the longer side of the ink leaves `margin` px (default: S // 32) at both ends, and the
    character is centred.
    Raises ValueError for what is blank or no picture.
    """
    return fit(find_ink(picture)[0], size, margin)


def fit(ink: np.ndarray, size: int, margin: int | None = None) -> np.ndarray:
    """Return the glyph of ink (h,w) uint8, 0 = paper; see `to_glyph`."""
    margin = size // 32 if margin is None else margin
    top, bottom, left, right = ink_box(ink)
    ink = ink[top:bottom, left:right]
    h, w = ink.shape
    scale = (size - 2 * margin) / max(h, w)
    width, height = max(1, round(w * scale)), max(1, round(h * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    ink = cv2.resize(ink, (width, height), interpolation=interpolation)
    glyph = np.zeros((size, size), np.uint8)
    y, x = (size - height) // 2, (size - width) // 2
    glyph[y : y + height, x : x + width] = level(ink)
    return glyph


def level(ink: np.ndarray) -> np.ndarray:
    """Scale ink (h,w) uint8, 0 = paper, so that the 95th percentile of its inked pixels is 255.

    Thin strokes fade when a picture is made smaller; this brings them back to full strength.
    """
    histogram = np.bincount(ink.ravel(), minlength=256)
    histogram[: int(ink.max()) // 4 + 1] = 0  # edges and noise say nothing of the ink's strength
    total = histogram.cumsum()
    strength = int(np.searchsorted(total, 0.95 * total[-1])) or 1
    return cv2.convertScaleAbs(ink, alpha=255 / strength)
