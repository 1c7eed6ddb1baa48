"""Glyphs of font files as templates.

    fonts = Fonts("fonts", "永和九年")
    fonts.template("永", rng)              # in a random typeface

A template is the skeleton of a glyph and the stroke radius along it.
"""

import functools
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
    """The typefaces of a folder that have some of `characters`; finding them takes seconds.

    Each folder of font files is one typeface (web fonts come as many subsets); `share` of the
    characters are drawn from fonts. Raises FileNotFoundError or ValueError if there are none.
    """

    def __init__(self, folder: str | Path, characters: str | list[str], share: float = 0.4) -> None:
        self.share = share
        found = (p for p in Path(folder).absolute().rglob("*") if p.suffix.lower() in SUFFIXES)
        self.files = [str(path) for path in sorted(found) if not is_hidden(path.name)]
        if not self.files:
            raise FileNotFoundError(f"{folder}: no font file ({', '.join(SUFFIXES)})")
        faces: dict[Path, dict[str, str]] = {}
        for path in self.files:
            face = faces.setdefault(Path(path).parent, {})
            missing = [c for c in characters if c not in face]
            face.update(dict.fromkeys(covered(path, missing), path))
        self.faces = [face for face in faces.values() if face]  # character -> its file
        if not self.faces:
            raise ValueError(f"{folder}: no font file has any of the characters")
        self.scales = []  # em a px: the median of the longer sides of the glyphs becomes TYPICAL
        for face in self.faces:
            some = list(face.items())[:: max(1, len(face) // 40)]
            masks = (open_font(path).getmask(character) for character, path in some)
            boxes = (mask.getbbox() or (0, 0, GLYPH, GLYPH) for mask in masks)
            sides = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
            self.scales.append(TYPICAL / float(np.median(sides)))

    def template(self, character: str, rng: np.random.Generator) -> Template | None:
        """Return the character in a random typeface, None if no typeface has it."""
        having = [k for k, face in enumerate(self.faces) if character in face]
        if not having:
            return None
        face = having[rng.integers(len(having))]
        return font_template(self.faces[face][character], character, self.scales[face])


@functools.lru_cache(maxsize=2048)
def open_font(path: str, size: int = GLYPH) -> ImageFont.FreeTypeFont:
    """Open a font file; raises ValueError if FreeType cannot read it."""
    try:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise ValueError(f"{path}: not a font that FreeType reads ({error})") from error


def covered(path: str, characters: str | list[str]) -> list[str]:
    """Return those of `characters` for which a font has a glyph with ink.

    Pillow does not tell whether a glyph exists; a missing one is drawn as a mark. Most characters
    are missing from a subset of a web font, so those in the box of the mark are drawn in blocks.
    """
    font, small = open_font(path), open_font(path, SMALL)
    boxes = {c: font.getbbox(c) for c in characters}
    inked = [c for c, (x0, y0, x1, y1) in boxes.items() if x0 < x1 and y0 < y1]
    mark = font.getbbox(MISSING)
    alike = [c for c in inked if boxes[c] == mark]
    marks = functools.cache(lambda count: drawn(small, count * MISSING).tobytes())

    def missing(block: list[str]) -> list[str]:
        if drawn(small, "".join(block)).tobytes() == marks(len(block)):
            return block
        half = len(block) // 2
        return missing(block[:half]) + missing(block[half:]) if half else []

    blocks = (alike[start : start + BLOCK] for start in range(0, len(alike), BLOCK))
    without = {c for block in blocks for c in missing(block)}
    return [c for c in inked if c not in without]


def drawn(font: ImageFont.FreeTypeFont, text: str) -> np.ndarray:
    """Return text (h, w) uint8, 255 = ink, in the box that the font gives it."""
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=font)
    return np.asarray(picture)


@functools.cache
def font_template(path: str, character: str, scale: float) -> Template | None:
    """Thin a glyph to its skeleton; None if nothing is left. `scale` is in em a px."""
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
    owner = label[y, x] - 1
    count = pieces - 1
    points = (x + 1j * y) * scale
    low, high = box(points)
    points -= (low + high) / 2
    centre = np.bincount(owner, points.real, count) + 1j * np.bincount(owner, points.imag, count)
    centre /= np.maximum(np.bincount(owner, minlength=count), 1)
    return Template(
        points=points,
        owner=owner,
        piece=owner,
        kind=np.full(count, KINDS.index("whole")),
        stroke=np.arange(count),
        centre=centre,
        radical=np.zeros(count, bool),
        radius=depth[y, x] * scale,
    )


def thin(body: np.ndarray) -> np.ndarray:
    """Thin a mask (H, W) uint8 of 0 and 1 to lines one pixel wide (Zhang and Suen 1984)."""
    # Neighbourhoods that lose their pixel; bit k is neighbour k, clockwise from north.
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8)
    total = bits.sum(axis=1)
    rises = ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(axis=1)
    n, e, s, w = bits[:, ::2].T
    edge = (total >= 2) & (total <= 6) & (rises == 1)
    first = edge & (n * e * s == 0) & (e * s * w == 0)
    second = edge & (n * e * w == 0) & (n * s * w == 0)
    neighbours = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    body, before = body.copy(), -1
    while (count := int(body.sum())) != before:
        before = count
        for lost in (first, second):
            code = cv2.filter2D(body, cv2.CV_8U, neighbours, borderType=cv2.BORDER_CONSTANT)
            body &= 1 - cv2.LUT(code, lost.astype(np.uint8))
    return body
