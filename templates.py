"""Characters at rest: what synthesis.py bends, joins and inks.

    parts("说")                       # ((0, 2, "讠"), (4, 7, "口"))
    stroke_template("说")             # as printed
    stroke_template("说", (1, 0))     # 讠 in its first abbreviation, 口 as printed
    Fonts("fonts").template("说", rng)    # the skeleton of a font glyph

source                 content
strokes/medians.npz    strokes of the 3755 level-1 characters (see strokes/README.md)
strokes/forms.txt      abbreviations of components, strokes of the symbols
font files             everything else, through Pillow

Nothing here is random but the choice of a typeface. Left out are stroke outlines.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

FOLDER = Path(__file__).with_name("strokes")
STEP = 0.025  # distance of neighbouring points of a template, em
GAP = 6  # points that bridge two strokes
SYMBOL_EM = 0.9  # height of the box of a symbol
GAP_POINTS = np.zeros((GAP, 2), np.float32)
GLYPH = 96  # px in an em of the font glyphs that are thinned


@dataclass(frozen=True)
class Template:
    """A character at rest: N points in em units, origin at the middle of its box, y down.

    Points of one stroke follow each other, with GAP points after each stroke but the last for the
    way to the next. A font's template is a loose set of skeleton points with their `radius`, its
    connected pieces taking the place of strokes.
    """

    points: np.ndarray  # (N, 2) float32
    owner: np.ndarray  # (N,) stroke of each point
    arch: np.ndarray  # (N,) 0 at the ends of a stroke, 1 in its middle
    centre: np.ndarray  # (n, 2) of each stroke
    normal: np.ndarray  # (n, 2) across the chord of each stroke
    length: np.ndarray  # (n,) of the chord
    first: np.ndarray  # (n,) index of each stroke's first point
    last: np.ndarray  # (n,)
    hook: np.ndarray  # (n,) index where the end hook starts, `last` where there is none
    radical: np.ndarray  # (n,) bool
    radius: np.ndarray | None = None  # (N,) em, of fonts only


class Component(NamedTuple):
    """A component as it is printed, and its abbreviations."""

    name: str
    shape: np.ndarray  # (strokes, 6, 2) as by `outline`
    place: str  # start, end or any: where in the stroke order it is looked for
    forms: list[list[np.ndarray]]  # each a list of polylines (k, 2) in the component's box


class Stroke(NamedTuple):
    """One stroke with evenly spaced points."""

    points: np.ndarray  # (k, 2) float32 em
    arch: np.ndarray  # (k,) float32, see Template
    hook: int  # index where the end hook starts, else the last

    @classmethod
    def along(cls, line: np.ndarray) -> Stroke:
        points = resample(line)
        arch = np.sin(np.linspace(0, np.pi, len(points), dtype=np.float32))
        return cls(points, arch, hook_start(points))


# Strokes ----------------------------------------------------------------------------------------


@functools.cache
def stroke_data() -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Read the strokes of all characters: polylines (k, 2) in em, which are the radical (n,)."""
    with np.load(FOLDER / "medians.npz") as arrays:
        steps = arrays["steps"].astype(np.int64)
        points = (np.cumsum(steps, axis=1) % 256).T.astype(np.float32) / 256
        lines = np.split(points, np.cumsum(arrays["points"].astype(np.int64))[:-1])
        ends = np.cumsum(arrays["strokes"].astype(np.int64))
        radical = np.unpackbits(arrays["radical"])[: len(lines)].astype(bool)
        starts = ends - arrays["strokes"]
        return {
            chr(code): (lines[start:end], radical[start:end])
            for code, start, end in zip(arrays["characters"], starts, ends, strict=True)
        }


@functools.lru_cache(maxsize=8192)
def stroke_template(character: str, forms: tuple[int, ...] = ()) -> Template:
    """Lay out the template of a character, or of one way of writing a symbol.

    `forms` chooses an abbreviation (from 1, 0 = as printed) for each of `parts(character)`; for a
    symbol it holds the number of the way. Raises ValueError for an unknown character.
    """
    ways = symbols().get(character)
    if ways is not None:
        lines = ways[forms[0] if forms else 0]
        return lay_out([Stroke.along(line) for line in lines], np.zeros(len(lines), bool))
    strokes, radical = printed_strokes(character)
    strokes, radical = list(strokes), list(radical)
    chosen = list(zip(parts(character), forms, strict=False))
    for (start, stop, number), form in reversed(chosen):
        if form:
            run = np.concatenate([stroke.points for stroke in strokes[start:stop]])
            low, size = run.min(axis=0), np.maximum(np.ptp(run, axis=0), 0.05)
            drawn = components()[number].forms[form - 1]
            strokes[start:stop] = [Stroke.along(line * size + low) for line in drawn]
            radical[start:stop] = [all(radical[start:stop])] * len(drawn)
    return lay_out(strokes, np.array(radical))


@functools.lru_cache(maxsize=8192)
def printed_strokes(character: str) -> tuple[list[Stroke], np.ndarray]:
    """Return the strokes of a character as printed and which are the radical."""
    if character not in stroke_data():
        raise ValueError(f"no strokes are known for {character!r}; give fonts that have it")
    lines, radical = stroke_data()[character]
    return [Stroke.along(line) for line in lines], radical


def lay_out(strokes: list[Stroke], radical: np.ndarray) -> Template:
    """Join strokes to a template, with room for the ways between them."""
    count = np.array([len(stroke.arch) for stroke in strokes])
    pieces = [piece for stroke in strokes for piece in (stroke.points, GAP_POINTS)][:-1]
    points = np.concatenate(pieces)
    inked = np.concatenate(pieces[::2])
    points -= (inked.min(axis=0) + inked.max(axis=0)) / 2
    arches = [piece for stroke in strokes for piece in (stroke.arch, GAP_POINTS[:, 0])][:-1]
    first = np.concatenate([[0], np.cumsum(count[:-1] + GAP)])
    last = first + count - 1
    chord = points[last] - points[first]
    length = np.hypot(chord[:, 0], chord[:, 1]) + 1e-6
    bounds = np.stack([first, last + 1], axis=1).ravel()[:-1]
    return Template(
        points=points,
        owner=np.repeat(np.arange(len(strokes)), np.diff(np.append(first, len(points)))),
        arch=np.concatenate(arches),
        centre=np.add.reduceat(points, bounds)[::2] / count[:, None],
        normal=np.stack([-chord[:, 1], chord[:, 0]], axis=1) / length[:, None],
        length=length,
        first=first,
        last=last,
        hook=first + [stroke.hook for stroke in strokes],
        radical=radical,
    )


def resample(line: np.ndarray, count: int | None = None) -> np.ndarray:
    """Place points (>= 3) at even distances, by default about STEP, along a polyline (k, 2)."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])
    at = np.linspace(0, along[-1], count or max(3, round(float(along[-1]) / STEP) + 1))
    return np.stack([np.interp(at, along, line[:, k]) for k in (0, 1)], axis=1).astype(np.float32)


def hook_start(line: np.ndarray) -> int:
    """Return the index at which the end hook of a resampled stroke starts, else its last index.

    A hook is a sharp turn (> 70 degrees) within the last third and the last eight steps.
    """
    count = len(line)
    step = np.diff(line, axis=0)
    angle = np.arctan2(step[:, 1], step[:, 0])
    for k in range(max(count - 8, count * 2 // 3), count - 2):
        turn = angle[min(count - 2, k + 2)] - angle[max(0, k - 3)]
        if abs((turn + np.pi) % (2 * np.pi) - np.pi) > 1.2:
            return k + 1
    return count - 1


# Components and symbols ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=8192)
def parts(character: str) -> tuple[tuple[int, int, int], ...]:
    """Find the components with abbreviations: (first stroke, last + 1, number in `components()`).

    All strokes come from one typeface, so that a component looks much the same wherever it stands:
    compared are the strokes, each as six points, in the box of the run.
    """
    if character not in stroke_data():
        return ()
    drawn = np.stack([resample(line, 6) for line in stroke_data()[character][0]])
    total = len(drawn)
    found, taken = [], np.zeros(total, bool)
    runs: dict[int, np.ndarray] = {}  # by number of strokes: all runs of the character, (k, n, 6, 2)
    for number, component in enumerate(components()):
        count = len(component.shape)
        if count > total:
            continue
        if count not in runs:
            index = np.arange(total - count + 1)[:, None] + np.arange(count)
            runs[count] = outline(drawn[index])
        error = np.abs(runs[count] - component.shape).mean(axis=(2, 3))
        alike = (error.mean(axis=1) < 0.055) & (error.max(axis=1) < 0.1)
        for start in np.flatnonzero(alike).tolist():
            stop = start + count
            fits = {"start": start == 0, "end": stop == total, "any": True}[component.place]
            if fits and not taken[start:stop].any():
                found.append((start, stop, number))
                taken[start:stop] = True
    return tuple(sorted(found))


def outline(runs: np.ndarray) -> np.ndarray:
    """Bring runs of strokes (..., n, 6, 2) to the box of each run, 1 x 1."""
    low = runs.min(axis=(-3, -2), keepdims=True)
    high = runs.max(axis=(-3, -2), keepdims=True)
    return (runs - low) / np.maximum(high - low, 0.04)


@functools.cache
def components() -> list[Component]:
    """Read the components of forms.txt, those of many strokes first."""
    found = []
    for line in forms_section("components"):
        if line[0].isspace():
            found[-1].forms.append(parse_strokes(line))
            continue
        name, exemplar, first, count, place = line.replace("=", " ").split()
        lines = stroke_data()[exemplar][0]
        first = int(first) % len(lines)
        run = np.stack([resample(line, 6) for line in lines[first : first + int(count)]])
        found.append(Component(name, outline(run), place, []))
    return sorted(found, key=lambda component: -len(component.shape))


@functools.cache
def symbols() -> dict[str, list[list[np.ndarray]]]:
    """Read the symbols of forms.txt: every way of writing, each a list of polylines in em."""
    found: dict[str, list[list[np.ndarray]]] = {}
    for line in forms_section("symbols"):
        symbol, text = line.split(None, 1)
        if "@" in text:
            lines = []
            for part in text.split():
                x, y, w, h = (int(digit) / 9 for digit in part[2:])
                inner = found[part[0]][0]
                box = np.concatenate(inner)
                low, size = box.min(axis=0), np.maximum(np.ptp(box, axis=0), 0.1)
                lines += [(line - low) / size * (w, h) + (x, y) for line in inner]
        else:
            lines = parse_strokes(text)
        found.setdefault(symbol, []).append([line * np.float32(SYMBOL_EM) for line in lines])
    return found


def forms_section(name: str) -> list[str]:
    """Return the lines of one section of forms.txt."""
    section, found = "", []
    for line in (FOLDER / "forms.txt").read_text(encoding="utf-8").splitlines():
        if line in ("[components]", "[symbols]"):
            section = line
        elif section == f"[{name}]" and line:
            found.append(line)
    return found


def parse_strokes(text: str) -> list[np.ndarray]:
    """Parse `00 99 | ~40 04` into polylines (k, 2) in a box of 1 x 1; ~ makes a smooth curve."""
    lines = []
    for stroke in text.split("|"):
        digits = [[int(digit) for digit in point] for point in stroke.replace("~", "").split()]
        line = np.array(digits, np.float32) / 9
        lines.append(curve(line) if "~" in stroke else line)
    return lines


def curve(line: np.ndarray) -> np.ndarray:
    """Lead a smooth curve through the points of a polyline (Catmull and Rom 1974)."""
    p = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    arc = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.concatenate([arc.transpose(1, 0, 2).reshape(-1, 2), line[-1:]])


# Fonts ------------------------------------------------------------------------------------------


class Fonts:
    """Skeletons of the glyphs of font files.

    `folder` is searched for .ttf, .otf, .ttc, .woff and .woff2 files; each folder that directly
    holds font files counts as one typeface, since web fonts come in many subsets. Needs Pillow.
    """

    def __init__(self, folder: str | Path, characters: Sequence[str]):
        """Find out which file has which of `characters`.

        Raises FileNotFoundError if the folder holds no font, ValueError if none has any character.
        """
        suffixes = {".ttf", ".otf", ".ttc", ".woff", ".woff2"}
        files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in suffixes)
        if not files:
            raise FileNotFoundError(f"{folder}: no font file (.ttf, .otf, .ttc, .woff, .woff2)")
        self.files = [str(path) for path in files]
        faces: dict[Path, dict[str, int]] = {}
        for number, path in enumerate(files):
            has = faces.setdefault(path.parent, {})
            missing = [c for c in characters if c not in has]
            has.update(dict.fromkeys(covered(open_font(str(path)), missing), number))
        self.faces = [face for face in faces.values() if face]  # typeface: character -> file
        if not self.faces:
            raise ValueError(f"{folder}: {len(files)} font files, none has any of the characters")
        self._templates: dict[tuple[int, str], Template | None] = {}

    def __getstate__(self) -> dict:
        """Leave the templates behind when the fonts travel to another process."""
        return self.__dict__ | {"_templates": {}}

    def template(self, character: str, rng: np.random.Generator) -> Template | None:
        """Return the character's skeleton in a random typeface, None if no typeface has it."""
        having = [k for k, face in enumerate(self.faces) if character in face]
        if not having:
            return None
        face = having[rng.integers(len(having))]
        key = (face, character)
        if key not in self._templates:
            font = open_font(self.files[self.faces[face][character]])
            self._templates[key] = font_template(font, character)
        return self._templates[key]


@functools.lru_cache(maxsize=1024)
def open_font(path: str):
    """Open a font file with Pillow; ValueError if it cannot be read."""
    try:
        from PIL import ImageFont
    except ImportError as error:
        raise ValueError("fonts need Pillow: pip install pillow") from error
    try:
        return ImageFont.truetype(path, GLYPH, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise ValueError(f"{path}: not a font that FreeType reads ({error})") from error


def covered(font, characters: Sequence[str]) -> list[str]:
    """Return those of `characters` which the font has: neither blank nor a mark of absence."""
    nothing = "\U000ffffd"  # of the private use, which no font has
    box = font.getbbox(nothing)
    small = font.font_variant(size=24)
    mask = bytes(small.getmask(nothing))

    def has(character: str) -> bool:
        if font.getbbox(character) == box and bytes(small.getmask(character)) == mask:
            return False
        return small.getmask(character).getbbox() is not None

    return [c for c in characters if has(c)]


def font_template(font, character: str) -> Template | None:
    """Thin a glyph to its skeleton; None if nothing is left."""
    mask = font.getmask(character, mode="L")
    w, h = mask.size
    picture = np.pad(np.array(mask, np.uint8).reshape(h, w), 3)
    skeleton = thin((cv2.GaussianBlur(picture, (0, 0), 1.2) > 110).astype(np.uint8))
    pieces, label = cv2.connectedComponents(skeleton, connectivity=8)
    y, x = np.nonzero(skeleton)
    if len(y) == 0:
        return None
    owner = label[y, x] - 1
    count = pieces - 1
    em = np.float32(font.size)
    points = np.stack([x, y], axis=1).astype(np.float32)
    points = (points - (points.min(axis=0) + points.max(axis=0)) / 2) / em
    centre = np.stack([np.bincount(owner, points[:, k]) for k in (0, 1)], axis=1)
    depth = cv2.distanceTransform((picture > 127).astype(np.uint8), cv2.DIST_L2, 5)
    return Template(
        points=points,
        owner=owner,
        arch=np.zeros(len(points), np.float32),
        centre=centre / np.bincount(owner)[:, None],
        normal=np.zeros((count, 2), np.float32),
        length=np.ones(count),
        first=np.zeros(count, np.int64),
        last=np.zeros(count, np.int64),
        hook=np.zeros(count, np.int64),
        radical=np.zeros(count, bool),
        radius=depth[y, x] / em,
    )


@functools.cache
def thinning_tables() -> np.ndarray:
    """Return, for both sub-steps of Zhang and Suen 1984, the 256 neighbourhoods that lose a pixel.

    Bit k of the code is neighbour k, clockwise from north.
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
    """Thin a mask (H, W) of 0 and 1 to lines one pixel wide (Zhang and Suen 1984)."""
    neighbours = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    body = body.copy()
    while True:
        before = int(body.sum())
        for table in thinning_tables():
            code = cv2.filter2D(body, cv2.CV_8U, neighbours, borderType=cv2.BORDER_CONSTANT)
            body &= 1 - cv2.LUT(code, table)
        if int(body.sum()) == before:
            return body
