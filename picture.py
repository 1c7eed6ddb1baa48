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

import os
from pathlib import Path

# OpenCV reads this once, when it is loaded: larger pictures are refused before they are decoded.
MAX_PIXELS = 1 << 26
TOO_LARGE = "{}: the picture has more than 67 million pixels; crop it to the character"
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from scene import find_character  # noqa: E402

PICTURE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".pgm", ".ppm")
)

# A clean scan, as HWDB's: much paper at exactly 255, next to nothing just below it.
CLEAN_PAPER = 0.35
CLEAN_NEAR_PAPER = 0.06
DENSE_PAPER = 0.15
STRIP_PAPER = 0.02
# Ink darker than this share of the darkest ink decides where the character ends.
INK_EDGE = 0.15
# Longest side at which paper, light and noise of an unclean picture are estimated.
ANALYSIS_SIDE = 768


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture file as it is: (h,w), (h,w,3) BGR or (h,w,4) BGRA; photos turned upright.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, damaged, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a picture (PNG, JPEG, BMP, TIFF)")
    # cv2.imread cannot open non-ASCII names on Windows; decoding from memory can.
    return decode_picture(np.fromfile(path, np.uint8), str(path))


def decode_picture(data: np.ndarray | bytes, name: str = "picture") -> np.ndarray:
    """Decode the bytes of a picture file; see `read_picture`."""
    data = np.frombuffer(data, np.uint8)
    if data.size == 0:
        raise ValueError(f"{name}: the file is empty, expected a picture (PNG, JPEG, BMP, TIFF)")
    # Unchanged keeps transparency, but also a photo as the camera held it: turn JPEGs upright.
    photo = data[:2].tobytes() == b"\xff\xd8"
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if photo else cv2.IMREAD_UNCHANGED
    try:
        picture = cv2.imdecode(data, flags)
    except cv2.error as error:
        if "pixels" in str(error).lower():
            raise ValueError(TOO_LARGE.format(name)) from None
        picture = None
    if picture is None:
        raise ValueError(f"{name}: not a picture that can be decoded (PNG, JPEG, BMP, TIFF)")
    if picture.shape[0] * picture.shape[1] > MAX_PIXELS:  # OpenCV was there before this module
        raise ValueError(TOO_LARGE.format(name))
    return picture


def to_grey(picture: np.ndarray) -> np.ndarray:
    """Bring any picture to (h,w) uint8 luminance; transparency becomes paper opposite to the ink.

    Args:
        picture: (h,w), (h,w,1), (h,w,3) or (h,w,4); bool, uint8, uint16 in their full range, or
            float in 0...1. Three channels are taken as BGR, a fourth one as opacity.

    Raises:
        ValueError: another shape or type, or no pixels.
    """
    if picture.ndim == 3 and picture.shape[2] in (1, 2):
        picture = picture[..., 0]
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if picture.ndim not in (2, 3) or channels not in (1, 3, 4) or picture.size == 0:
        raise ValueError(f"picture of shape {picture.shape}, expected (h,w), (h,w,3) or (h,w,4)")
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    elif picture.dtype == bool or np.issubdtype(picture.dtype, np.floating):
        picture = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
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
    ink = float(grey[opacity > 127].mean()) if (opacity > 127).any() else 0.0
    paper = 0.0 if ink > 127 else 255.0
    alpha = opacity / np.float32(255)
    return (grey * alpha + paper * (1 - alpha) + 0.5).astype(np.uint8)


def is_clean(grey: np.ndarray) -> bool:
    """Tell whether a picture is a clean scan already: paper exactly 255, little just below it.

    In a tight box, dense writing leaves less paper, and a level stroke next to none. The picture
    must not be mostly black then, which would be the paper of a light pen.
    """
    histogram = np.bincount(grey.ravel(), minlength=256) / grey.size
    if histogram[236:255].sum() > CLEAN_NEAR_PAPER:
        return False
    if histogram[:24].sum() >= 0.5:
        return histogram[255] >= CLEAN_PAPER
    strip = max(grey.shape) > 2.5 * min(grey.shape)
    return histogram[255] >= (STRIP_PAPER if strip else DENSE_PAPER)


def clean(grey: np.ndarray) -> np.ndarray:
    """Bring a picture to the form of a clean scan: dark ink on paper of exactly 255.

    A clean scan is returned as it is. Otherwise the polarity is decided, the paper's brightness is
    estimated everywhere and taken away, what is no darker than its noise becomes 255, specks go.

    Args:
        grey: (h,w) uint8, any polarity.

    Returns:
        (h',w') uint8, 255 = paper; a part of the picture where it is large.

    Raises:
        ValueError: nothing but paper.
    """
    if is_clean(grey):
        return grey
    scale = ANALYSIS_SIDE / max(grey.shape)
    if scale < 1:
        small = _reduce(grey, scale)
        top, bottom, left, right = (round(v / scale) for v in _ink_box(_lift(small), 0.1))
        grey = grey[top:bottom, left:right]
        scale = ANALYSIS_SIDE / max(grey.shape)
        if scale < 1:
            grey = _reduce(grey, scale)
    return 255 - find_character(255 - _lift(grey)).ink


def _reduce(grey: np.ndarray, scale: float) -> np.ndarray:
    """Make a picture smaller, but no side less than a pixel."""
    w, h = (max(1, round(side * scale)) for side in grey.shape[::-1])
    return cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA)


def _lift(grey: np.ndarray) -> np.ndarray:
    """Return ink on 255 from a picture of at most `ANALYSIS_SIDE`; see `clean`."""
    values = grey.astype(np.float32)
    if _is_inverted(values):
        values = 255 - values
    # Closing fills what is dark and narrower than the kernel, so it leaves the paper alone.
    side = max(3, max(grey.shape) // 4) | 1
    padded = cv2.copyMakeBorder(values, *([side] * 4), cv2.BORDER_REPLICATE)
    paper = cv2.morphologyEx(
        cv2.GaussianBlur(padded, (3, 3), 0), cv2.MORPH_CLOSE, np.ones((side, side), np.uint8)
    )
    paper = cv2.GaussianBlur(paper, (0, 0), side / 6)[side:-side, side:-side]
    ink = np.clip(paper - values, 0, 255)
    quantised = ink.astype(np.uint8)
    threshold, _ = cv2.threshold(quantised, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    floor = ink[ink <= threshold]
    noise = float(floor.std()) if floor.size else 0.0
    level = float(floor.mean()) if floor.size else 0.0
    dark = ink[ink > threshold]
    strength = float(np.median(dark)) if dark.size else 0.0
    if strength - level < max(10.0, 4 * noise):
        raise ValueError("blank picture: nothing darker or lighter than the paper was found")
    low = level + 2 * noise  # below: paper; from there ink grows to full strength
    full = float(np.percentile(dark, 95))
    bitmap = 255 - np.clip((ink - low) / max(full - low, 1.0), 0, 1) * 255
    return _drop_specks(bitmap.astype(np.uint8), quantised > (threshold + low) / 2)


def _is_inverted(values: np.ndarray) -> bool:
    """Tell whether ink is lighter than paper, after a plane of light is taken away."""
    thumb = cv2.resize(values, (24, 24), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[0:24, 0:24].reshape(2, -1) / 23.0 - 0.5
    basis = np.stack([x, y, np.ones_like(x)], 1)
    plane, *_ = np.linalg.lstsq(basis, thumb.ravel(), rcond=None)
    h, w = values.shape
    light = plane[0] * (np.arange(w) / max(w - 1, 1) - 0.5)
    light = light + (plane[1] * (np.arange(h) / max(h - 1, 1) - 0.5))[:, None]
    low, middle, high = np.percentile(values - light, (0.5, 50, 99.5))
    return high - middle > middle - low


def _drop_specks(bitmap: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Make paper of all ink that hangs on no piece of at least 0.5 % of the ink."""
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    _, pieces = cv2.connectedComponents(grown, connectivity=8)
    ink = np.bincount(pieces[mask], minlength=pieces.max() + 1)
    keep = ink >= 0.005 * ink.sum()
    keep[0] = False  # paper
    return np.where(keep[pieces], bitmap, 255).astype(np.uint8)


def _ink_box(bitmap: np.ndarray, margin: float = 0.0) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of the ink, widened by a share of its longer side.

    Raises:
        ValueError: blank.
    """
    darkest = 255 - int(bitmap.min())
    if darkest < 10:
        raise ValueError("blank picture: nothing darker or lighter than the paper was found")
    ink = bitmap < 255 - INK_EDGE * darkest
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    extra = round(margin * max(bottom - top, right - left))
    return (
        max(0, top - extra),
        min(bitmap.shape[0], bottom + extra),
        max(0, left - extra),
        min(bitmap.shape[1], right + extra),
    )


def to_glyph(picture: np.ndarray, size: int = 64, margin: int | None = None) -> np.ndarray:
    """Bring one picture of one character to the form the network reads.

    Args:
        picture: see `to_grey`.
        size: S, side of the result in pixels.
        margin: paper around the ink in pixels; default S / 32.

    Returns:
        glyph (S,S) uint8: 0 = paper, ink levelled so that its 95th percentile is 255; the longer
        side of the ink fills S - 2 * margin, the character is centred.

    Raises:
        ValueError: blank, or not a picture (see `to_grey`).
    """
    margin = size // 32 if margin is None else margin
    bitmap = clean(to_grey(picture))
    top, bottom, left, right = _ink_box(bitmap)
    ink = 255 - bitmap[top:bottom, left:right]
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
