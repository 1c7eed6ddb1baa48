"""Glyphs of font files, reduced to templates: a skeleton with the radius of the stroke.

    fonts = Fonts("fonts", "永和九年")
    fonts.template("永", rng)              # in a random typeface

Needs Pillow, which reads .ttf, .otf, .ttc, .woff and .woff2 files.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jobs.files import is_hidden
from synthesis.templates import KINDS, TYPICAL, Template, box

SUFFIXES = (".ttf", ".otf", ".ttc", ".woff", ".woff2")
GLYPH = 160  # px of an em where glyphs are thinned: small counters stay open
SMALL = 24  # px of an em where glyphs are compared with the mark of a missing one
MISSING = "\U000ffffd"  # a private code point, which no font has
BLOCK = 64  # characters that are compared at once


class Fonts:
    """The typefaces of a folder, as far as they have some of `characters`.

    Each folder that directly holds font files counts as one typeface, since web fonts come as many
    subsets. Looking up which file has which character takes seconds; an instance can be pickled, so
    that worker processes need not repeat it. Raises FileNotFoundError without font files and
    ValueError if none has any of the characters.
    """

    def __init__(self, folder: str | Path, characters: Sequence[str]) -> None:
        found = (p for p in Path(folder).absolute().rglob("*") if p.suffix.lower() in SUFFIXES)
        self.files = [str(path) for path in sorted(found) if not is_hidden(path.name)]
        if not self.files:
            raise FileNotFoundError(f"{folder}: no font file ({', '.join(SUFFIXES)})")
        faces: dict[Path, dict[str, int]] = {}
        for number, path in enumerate(self.files):
            face = faces.setdefault(Path(path).parent, {})
            missing = [c for c in characters if c not in face]
            face.update(dict.fromkeys(covered(path, missing), number))
        self.faces = [face for face in faces.values() if face]  # character -> number of its file
        if not self.faces:
            count = len(self.files)
            raise ValueError(f"{folder}: {count} font files, none has any of the characters")
        self.sizes = [self._size(face) for face in self.faces]

    def template(self, character: str, rng: np.random.Generator) -> Template | None:
        """Return the character in a random typeface, None if no typeface has it."""
        having = [k for k, face in enumerate(self.faces) if character in face]
        if not having:
            return None
        face = having[rng.integers(len(having))]
        path = self.files[self.faces[face][character]]
        return font_template(path, character, self.sizes[face])

    def _size(self, face: dict[str, int]) -> float:
        """Return the median of the longer sides of a typeface's glyphs, in px."""
        some = list(face.items())[:: max(1, len(face) // 40)]
        masks = [open_font(self.files[number]).getmask(character) for character, number in some]
        boxes = [mask.getbbox() or (0, 0, GLYPH, GLYPH) for mask in masks]
        return float(np.median([max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]))


@functools.lru_cache(maxsize=2048)
def open_font(path: str, size: int = GLYPH) -> ImageFont.FreeTypeFont:
    """Open a font file; raises ValueError if FreeType cannot read it."""
    try:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise ValueError(f"{path}: not a font that FreeType reads ({error})") from error


def covered(path: str, characters: Sequence[str]) -> list[str]:
    """Return those of `characters` for which a font has a glyph with ink.

    Pillow does not tell whether a glyph exists; a missing one is drawn as a mark. Most characters
    are missing from a subset of a web font, so those in the box of the mark are drawn in blocks.
    """
    font, small = open_font(path), open_font(path, SMALL)
    mark = font.getbbox(MISSING)
    boxes = {c: font.getbbox(c) for c in characters}
    alike = [c for c in characters if boxes[c] == mark]

    @functools.cache
    def marks(count: int) -> bytes:
        return drawn(small, count * MISSING).tobytes()

    def search(block: Sequence[str]) -> set[str]:
        ink = drawn(small, "".join(block))
        if ink.tobytes() == marks(len(block)):
            return set()
        if len(block) == 1:
            return set(block) if ink.any() else set()
        middle = len(block) // 2
        return search(block[:middle]) | search(block[middle:])

    inked = {c for c, (x0, y0, x1, y1) in boxes.items() if x0 < x1 and y0 < y1}
    found = inked.difference(alike)
    for start in range(0, len(alike), BLOCK):
        found |= search(alike[start : start + BLOCK])
    return [c for c in characters if c in found]


def drawn(font: ImageFont.FreeTypeFont, text: str) -> np.ndarray:
    """Return text (h, w) uint8, 255 = ink, in the box that the font gives it."""
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=font)
    return np.asarray(picture)


@functools.cache
def font_template(path: str, character: str, size: float) -> Template | None:
    """Thin a glyph to its skeleton; None if nothing is left. `size` px become TYPICAL em."""
    picture = np.pad(drawn(open_font(path), character), 3)
    skeleton = thin((cv2.GaussianBlur(picture, (0, 0), 0.8) > 127).astype(np.uint8))
    pieces, label = cv2.connectedComponents(skeleton, connectivity=8)
    y, x = np.nonzero(skeleton)
    if len(y) == 0:
        return None
    # One point for every 2 x 2 pixels is enough: an em is rarely drawn larger than 100 px.
    kept = np.unique((y // 2) * picture.shape[1] + x // 2, return_index=True)[1]
    y, x = y[kept], x[kept]
    depth = cv2.distanceTransform((picture > 127).astype(np.uint8), cv2.DIST_L2, 5)
    scale = TYPICAL / size
    owner = label[y, x] - 1
    count = pieces - 1
    points = (x + 1j * y) * scale
    low, high = box(points)
    points -= (low + high) / 2
    centre = np.bincount(owner, points.real, count) + 1j * np.bincount(owner, points.imag, count)
    centre /= np.maximum(np.bincount(owner, minlength=count), 1)
    no_ends = np.zeros(count, np.int64)
    return Template(
        points=points,
        owner=owner,
        piece=owner,
        along=np.zeros(len(points)),
        kind=np.full(count, KINDS.index("whole")),
        stroke=np.arange(count),
        centre=centre,
        first=no_ends,
        last=no_ends,
        radical=no_ends > 0,
        radius=depth[y, x] * scale,
    )


@functools.cache
def thinning_tables() -> np.ndarray:
    """Return (2, 256) uint8: which neighbourhoods lose their pixel in each sub-step.

    Bit k of the index is neighbour k, clockwise from north (Zhang and Suen 1984).
    """
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8)
    total = bits.sum(axis=1)
    rises = ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(axis=1)
    n, e, s, w = bits[:, 0], bits[:, 2], bits[:, 4], bits[:, 6]
    edge = (total >= 2) & (total <= 6) & (rises == 1)
    first = edge & (n * e * s == 0) & (e * s * w == 0)
    second = edge & (n * e * w == 0) & (n * s * w == 0)
    return np.stack([first, second]).astype(np.uint8)


def thin(body: np.ndarray) -> np.ndarray:
    """Thin a mask (H, W) uint8 of 0 and 1 to lines one pixel wide (Zhang and Suen 1984)."""
    neighbours = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    body = body.copy()
    while True:
        before = int(body.sum())
        for table in thinning_tables():
            code = cv2.filter2D(body, cv2.CV_8U, neighbours, borderType=cv2.BORDER_CONSTANT)
            body &= 1 - cv2.LUT(code, table)
        if int(body.sum()) == before:
            return body
