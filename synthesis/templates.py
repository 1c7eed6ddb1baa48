"""Characters at rest: what writer.py bends, joins and inks.

    parts("说")                       # ((0, 2, "讠"), (4, 7, "口"))
    stroke_template("说")             # as printed
    stroke_template("说", (1, 0))     # 讠 in its first abbreviation, 口 as printed
    stroke_template("王", (), (1,))   # its second and third stroke in the other order
    Fonts("fonts").template("说", rng)    # the skeleton of a font glyph

source                 content
strokes/medians.npz    strokes of the 3755 level-1 characters (see strokes/README.md)
strokes/forms.txt      abbreviations of components, strokes of the symbols
font files             everything else, through Pillow

Nothing here is random but the choice of a typeface. Left out are stroke outlines.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jobs.command import needs

FOLDER = Path(__file__).with_name("strokes")
STEP = 0.025  # distance of neighbouring points of a template, em
GAP = 6  # points that bridge two strokes
SYMBOL_EM = 0.9  # height of the box of a symbol
NO_POINTS = np.zeros(GAP)
FONT_EM = 0.9  # longer side of most glyphs, whatever share of its box a typeface fills
# Kinds of straight pieces: 横, 竖, 撇, 捺, 点 and 提; of fonts, whole components.
KINDS = ("across", "down", "left", "right", "dot", "rise", "whole")
GLYPH = 160  # px in an em of the font glyphs that are thinned: small counters stay open


@dataclass(frozen=True)
class Template:
    """A character at rest: N points in em units, origin at the middle of its box.

    The plane is that of complex numbers: x right, imaginary y down. Points of one stroke follow
    each other, with GAP points after each stroke but the last for the way to the next. A font's
    template is a loose set of skeleton points with their `radius`, its connected pieces taking
    the place of strokes.
    """

    points: np.ndarray  # (N,) complex
    owner: np.ndarray  # (N,) stroke of each point
    place: np.ndarray  # (N,) of each point in its stroke, 0..1
    piece: np.ndarray  # (N,) straight piece of a stroke that each point belongs to
    along: np.ndarray  # (N,) place of a point within its piece, -0.5..0.5
    kind: np.ndarray  # (m,) of each piece, see KINDS
    stroke: np.ndarray  # (m,) of each piece
    centre: np.ndarray  # (n,) complex, of each stroke
    first: np.ndarray  # (n,) index of each stroke's first point
    last: np.ndarray  # (n,)
    hook: np.ndarray  # (n,) index where the end hook starts, `last` where there is none
    radical: np.ndarray  # (n,) bool
    radius: np.ndarray | None = None  # (N,) em, of fonts only

    def stroke_means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean (n,) of values (N,) over the points of each stroke, gaps left out."""
        bounds = np.stack([self.first, self.last + 1], axis=1).ravel()[:-1]
        return np.add.reduceat(values, bounds)[::2] / (self.last - self.first + 1)


class Component(NamedTuple):
    """A component as it is printed, and its abbreviations."""

    name: str
    shape: np.ndarray  # (strokes, 6) as by `outline`
    place: str  # start, end or any: where in the stroke order it is looked for
    absent: str  # characters that look as if they had it
    forms: list[list[np.ndarray]]  # each a list of polylines in the component's box


class Stroke(NamedTuple):
    """One stroke with evenly spaced points."""

    points: np.ndarray  # (k,) complex, em
    piece: np.ndarray  # (k,) straight piece that each point belongs to, from 0
    hook: int  # index where the end hook starts, else the last

    @classmethod
    def along(cls, line: np.ndarray) -> Stroke:
        points = resample(line)
        return cls(points, straight_pieces(points), hook_start(points))


# Strokes ----------------------------------------------------------------------------------------


@functools.cache
def stroke_data() -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Read the strokes of all characters: polylines (k,) in em, and which are the radical (n,)."""
    with np.load(FOLDER / "medians.npz") as arrays:
        steps = arrays["steps"].astype(np.int64)
        x, y = np.cumsum(steps, axis=1) % 256 / 256
        lines = np.split(x + 1j * y, np.cumsum(arrays["points"].astype(np.int64))[:-1])
        ends = np.cumsum(arrays["strokes"].astype(np.int64))
        radical = np.unpackbits(arrays["radical"])[: len(lines)].astype(bool)
        starts = ends - arrays["strokes"]
        return {
            chr(code): (lines[start:end], radical[start:end])
            for code, start, end in zip(arrays["characters"], starts, ends, strict=True)
        }


@functools.lru_cache(maxsize=8192)
def stroke_template(
    character: str, forms: tuple[int, ...] = (), swaps: tuple[int, ...] = ()
) -> Template:
    """Lay out the template of a character, or of one way of writing a symbol.

    `forms` chooses an abbreviation (from 1, 0 = as printed) for each of `parts(character)`; for a
    symbol it holds the number of the way. `swaps` are strokes that are written after the next one
    (some of `crossings(character)`). Raises ValueError for an unknown character.
    """
    if ways := symbols().get(character):
        lines = ways[forms[0] if forms else 0]
        return lay_out([Stroke.along(line) for line in lines], np.zeros(len(lines), bool))
    strokes, radical = printed_strokes(character)
    strokes, radical = list(strokes), list(radical)
    for k in swaps:
        strokes[k : k + 2] = strokes[k : k + 2][::-1]
        radical[k : k + 2] = radical[k : k + 2][::-1]
    chosen = list(zip(parts(character), forms, strict=False))
    for (start, stop, number), form in reversed(chosen):
        if form:
            low, high = box(np.concatenate([stroke.points for stroke in strokes[start:stop]]))
            drawn = components()[number].forms[form - 1]
            strokes[start:stop] = [Stroke.along(place(line, low, high - low)) for line in drawn]
            radical[start:stop] = [all(radical[start:stop])] * len(drawn)
    return lay_out(strokes, np.array(radical))


@functools.lru_cache(maxsize=8192)
def printed_strokes(character: str) -> tuple[list[Stroke], np.ndarray]:
    """Return the strokes of a character as printed and which are the radical."""
    if character not in stroke_data():
        raise ValueError(f"no strokes are known for {character!r}; give fonts that have it")
    lines, radical = stroke_data()[character]
    return [Stroke.along(line) for line in lines], radical


@functools.lru_cache(maxsize=8192)
def crossings(character: str) -> tuple[int, ...]:
    """Return the strokes that cross the next one: those whose order varies from hand to hand.

    The vertical of 十, 土 or 王, say, is often written before the horizontal, most of all in
    running script. Strokes on the border of a component of `parts` are left alone.
    """
    if character not in stroke_data():
        return ()
    lines = stroke_data()[character][0]
    borders = {edge - 1 for start, stop, _ in parts(character) for edge in (start, stop)}
    found = []
    for k in range(len(lines) - 1):
        free = k not in borders and (not found or found[-1] < k - 1)
        if free and cross(lines[k], lines[k + 1]):
            found.append(k)
    return tuple(found)


def cross(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two polylines (k,) and (m,) cross."""

    def side(start: np.ndarray, end: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return on which side of each line each point lies, (lines, points) of -1, 0 and 1."""
        way = (end - start)[:, None].conj() * (points - start[:, None])
        return np.sign(way.imag)

    apart = side(one[:-1], one[1:], other)
    across = side(other[:-1], other[1:], one)
    return bool(((apart[:, :-1] * apart[:, 1:] < 0) & (across[:, :-1] * across[:, 1:] < 0).T).any())


def lay_out(strokes: list[Stroke], radical: np.ndarray) -> Template:
    """Join strokes to a template, with room for the ways between them."""
    runs = [run for stroke in strokes for run in (stroke.points, NO_POINTS)][:-1]
    low, high = box(np.concatenate(runs[::2]))
    points = np.concatenate(runs) - (low + high) / 2
    size = np.array([len(stroke.points) for stroke in strokes])
    first = np.concatenate([[0], np.cumsum(size[:-1] + GAP)])
    last = first + size - 1
    owner = np.repeat(np.arange(len(strokes)), np.diff(np.append(first, len(points))))
    index = np.arange(len(points))
    centre = [points[i : j + 1].mean() for i, j in zip(first, last, strict=True)]
    count = np.array([stroke.piece[-1] + 1 for stroke in strokes])  # straight pieces
    before = np.cumsum(count) - count
    within = [part for stroke in strokes for part in (stroke.piece, GAP * [stroke.piece[-1]])]
    piece = np.concatenate(within[:-1]) + before[owner]
    stroke = np.repeat(np.arange(len(strokes)), count)
    start = np.searchsorted(piece, np.arange(count.sum()))
    end = np.minimum(np.append(start[1:], len(piece)) - 1, last[stroke])
    along = (index - start[piece]) / np.maximum(end - start, 1)[piece] - 0.5
    return Template(
        points=points,
        owner=owner,
        place=np.minimum((index - first[owner]) / np.maximum(size - 1, 1)[owner], 1),
        piece=piece,
        along=np.minimum(along, 0.5),
        kind=kind_of(points[end] - points[np.maximum(start - 1, first[stroke])]),
        stroke=stroke,
        centre=np.array(centre),
        first=first,
        last=last,
        hook=first + [stroke.hook for stroke in strokes],
        radical=radical,
    )


def box(points: np.ndarray) -> tuple[complex, complex]:
    """Return the upper left and the lower right corner of points (N,)."""
    x, y = points.real, points.imag
    return complex(x.min(), y.min()), complex(x.max(), y.max())


def place(line: np.ndarray, corner: complex, size: complex) -> np.ndarray:
    """Bring a polyline from the box of 1 x 1 to the box at `corner` of at least 0.05 em."""
    w, h = max(size.real, 0.05), max(size.imag, 0.05)
    return corner + line.real * w + 1j * (line.imag * h)


def resample(line: np.ndarray, count: int | None = None) -> np.ndarray:
    """Place points (>= 3) at even distances, by default about STEP, along a polyline (k,)."""
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(line)))])
    at = np.linspace(0, along[-1], count or max(3, round(along[-1] / STEP) + 1))
    return np.interp(at, along, line)


def straight_pieces(line: np.ndarray) -> np.ndarray:
    """Return to which straight piece each point (k,) of a resampled stroke belongs, from 0.

    A corner is where the direction turns by more than 50 degrees within four steps.
    """
    count = len(line)
    if count < 6:
        return np.zeros(count, np.int64)
    index = np.arange(1, count - 1)
    ahead = line[np.minimum(index + 2, count - 1)] - line[index]
    behind = line[index] - line[np.maximum(index - 2, 0)]
    turn = np.abs(np.angle(ahead * behind.conj()))
    # The sharpest point among its neighbours is the corner.
    near = np.lib.stride_tricks.sliding_window_view(np.pad(turn, 3), 7).max(axis=1)
    corner = (turn > 0.87) & (turn == near) & (index > 1) & (index < count - 2)
    piece = np.zeros(count, np.int64)
    piece[index + 1] = np.cumsum(corner)
    return piece


def kind_of(chord: np.ndarray) -> np.ndarray:
    """Return the kind (m,) of straight pieces with these chords, as a place in KINDS."""
    angle = np.degrees(np.angle(chord))
    bounds = [-40, 20, 60, 112]  # rise | across | right falling | down | left falling
    kind = np.array([5, 0, 3, 1, 2])[np.searchsorted(bounds, angle)]
    return np.where(np.abs(chord) < 0.2, 4, kind)


def hook_start(line: np.ndarray) -> int:
    """Return the index at which the end hook of a resampled stroke starts, else its last index.

    A hook is a sharp turn (> 70 degrees) within the last third and the last eight steps.
    """
    count = len(line)
    angle = np.angle(np.diff(line))
    for k in range(max(count - 8, count * 2 // 3), count - 2):
        turn = angle[min(count - 2, k + 2)] - angle[max(0, k - 3)]
        if abs((turn + np.pi) % (2 * np.pi) - np.pi) > 1.2:
            return k + 1
    return count - 1


class Hands:
    """Pen trajectories of real writers, a bank of templates each.

    `folder` holds files .jsonl.gz, a writer each; a line is {"character": "啊", "strokes":
    [[[x, y], ...], ...]}, y downwards, in any unit. A character may stand more than once.
    """

    def __init__(self, folder: str | Path):
        self.files = [str(path) for path in sorted(Path(folder).glob("*.jsonl.gz"))]
        if not self.files:
            raise FileNotFoundError(f"{folder}: no pen trajectories (.jsonl.gz)")
        self.banks = [read_hand(path) for path in self.files]

    def template(self, bank: int, character: str, rng: np.random.Generator) -> Template | None:
        """Return a character as the writer of a bank wrote it, None if that one did not."""
        written = self.banks[bank].get(character)
        return lay_out_hand(written[rng.integers(len(written))]) if written else None


def read_hand(path: str) -> dict[str, list[tuple[np.ndarray, ...]]]:
    """Read the polylines of a writer's strokes by character; a usual character is FONT_EM large."""
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            strokes = [np.array(stroke, float) @ [1, 1j] for stroke in item["strokes"] if stroke]
            if strokes:
                found.setdefault(item["character"], []).append(tuple(strokes))
    boxes = [box(np.concatenate(strokes)) for ways in found.values() for strokes in ways]
    size = np.median([max((high - low).real, (high - low).imag) for low, high in boxes])
    scale = FONT_EM / size
    return {
        character: [tuple(line * scale for line in strokes) for strokes in ways]
        for character, ways in found.items()
    }


def lay_out_hand(strokes: tuple[np.ndarray, ...]) -> Template:
    """Return the template of written strokes; a dot of one point becomes a short stroke."""
    lines = [line if np.ptp(line.real) + np.ptp(line.imag) > 0 else line[0] + np.array([0, 0.02])
             for line in strokes]  # fmt: skip
    return lay_out([Stroke.along(line) for line in lines], np.zeros(len(lines), bool))


@functools.lru_cache(maxsize=4)
def open_hands(folder: str) -> Hands | None:
    """Return the pen trajectories of a folder, read once in a process; None for ''."""
    return Hands(folder) if folder else None


@functools.lru_cache(maxsize=8192)
def straight_template(character: str) -> Template:
    """Return a character of level and upright lines, its strokes straight between their corners."""
    strokes, radical = printed_strokes(character)
    return lay_out([Stroke.along(straighten(stroke)) for stroke in strokes], radical)


def straighten(stroke: Stroke) -> np.ndarray:
    """Return the corners (k,) of a stroke, nearly level and upright pieces made wholly so."""
    corner = np.flatnonzero(np.diff(stroke.piece))
    line = stroke.points[[0, *corner, len(stroke.points) - 1]].copy()
    for k in range(1, len(line)):
        way = line[k] - line[k - 1]
        if abs(way.imag) < 0.35 * abs(way.real):
            line[k] = line[k].real + 1j * line[k - 1].imag
        elif abs(way.real) < 0.2 * abs(way.imag):
            line[k] = line[k - 1].real + 1j * line[k].imag
    return line


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
    runs: dict[int, np.ndarray] = {}  # by number of strokes: all runs, (k, n, 6)
    for number, component in enumerate(components()):
        count = len(component.shape)
        if count > total or character in component.absent:
            continue
        if count not in runs:
            index = np.arange(total - count + 1)[:, None] + np.arange(count)
            runs[count] = outline(drawn[index])
        error = np.abs(runs[count] - component.shape).mean(axis=2)  # of each stroke
        alike = (error.mean(axis=1) < 0.09) & (error.max(axis=1) < 0.17)
        for start in np.flatnonzero(alike).tolist():
            stop = start + count
            at_start, at_end = start == 0, stop == total
            fits = {"start": at_start, "end": at_end, "alone": at_start and at_end, "any": True}
            if fits[component.place] and not taken[start:stop].any():
                found.append((start, stop, number))
                taken[start:stop] = True
    return tuple(sorted(found))


def outline(runs: np.ndarray) -> np.ndarray:
    """Bring runs of strokes (..., n, 6) to the box of each run, 1 x 1."""

    def fill(value: np.ndarray) -> np.ndarray:
        low = value.min(axis=(-2, -1), keepdims=True)
        return (value - low) / np.maximum(value.max(axis=(-2, -1), keepdims=True) - low, 0.04)

    return fill(runs.real) + 1j * fill(runs.imag)


@functools.cache
def components() -> list[Component]:
    """Read the components of forms.txt, those of many strokes first."""
    found = []
    for line in forms_section("components"):
        if line[0].isspace():
            found[-1].forms.append(parse_strokes(line))
            continue
        name, _, exemplar, first, count, place, *absent = line.split()
        lines = stroke_data()[exemplar][0]
        first = int(first) % len(lines)
        run = np.stack([resample(line, 6) for line in lines[first : first + int(count)]])
        found.append(Component(name, outline(run), place, "".join(absent), []))
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
                inner = outline(np.concatenate(found[part[0]][0])[None])[0]
                cuts = np.cumsum([len(line) for line in found[part[0]][0]])[:-1]
                lines += [place(line, x + 1j * y, w + 1j * h) for line in np.split(inner, cuts)]
        else:
            lines = parse_strokes(text)
        found.setdefault(symbol, []).append([line * SYMBOL_EM for line in lines])
    return found


def forms_section(name: str) -> list[str]:
    """Return the lines of one section of forms.txt, of which [symbols] is the last."""
    text = (FOLDER / "forms.txt").read_text(encoding="utf-8")
    section = text.partition(f"[{name}]\n")[2].partition("\n[symbols]\n")[0]
    return [line for line in section.splitlines() if line]


def parse_strokes(text: str) -> list[np.ndarray]:
    """Parse `00 99 | ~40 04` into polylines (k,) in a box of 1 x 1; ~ makes a smooth curve."""
    lines = []
    for stroke in text.split("|"):
        points = stroke.replace("~", "").split()
        line = np.array([complex(int(x), int(y)) for x, y in points]) / 9
        lines.append(curve(line) if "~" in stroke else line)
    return lines


def curve(line: np.ndarray) -> np.ndarray:
    """Lead a smooth curve through the points of a polyline (Catmull and Rom 1974)."""
    p = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    t = np.linspace(0, 1, 8, endpoint=False)
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    arc = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.append(arc.ravel(), line[-1])


# Fonts ------------------------------------------------------------------------------------------


class Fonts:
    """Skeletons of the glyphs of font files, as far as they have some of `characters`.

    `folder` is searched for .ttf, .otf, .ttc, .woff and .woff2 files; each folder that directly
    holds font files counts as one typeface, since web fonts come in many subsets. Needs Pillow.
    """

    def __init__(self, folder: str | Path, characters: Sequence[str]):
        suffixes = (".ttf", ".otf", ".ttc", ".woff", ".woff2")
        files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in suffixes)
        if not files:
            raise FileNotFoundError(f"{folder}: no font file ({', '.join(suffixes)})")
        self.files = [str(path) for path in files]
        faces: dict[Path, dict[str, int]] = {}
        for number, path in enumerate(files):
            has = faces.setdefault(path.parent, {})
            missing = [c for c in characters if c not in has]
            has.update(dict.fromkeys(covered(open_font(str(path)), missing), number))
        self.faces = [face for face in faces.values() if face]  # typeface: character -> file
        if not self.faces:
            raise ValueError(f"{folder}: {len(files)} font files, none has any of the characters")
        self.sizes = [self._size(face) for face in self.faces]

    def template(self, character: str, rng: np.random.Generator) -> Template | None:
        """Return the character's skeleton in a random typeface, None if no typeface has it."""
        having = [k for k, face in enumerate(self.faces) if character in face]
        if not having:
            return None
        face = having[rng.integers(len(having))]
        path = self.files[self.faces[face][character]]
        return font_template(path, character, self.sizes[face])

    def _size(self, face: dict[str, int]) -> float:
        """Return how large a typeface draws: the median of its glyphs' longer sides, px."""
        some = list(face.items())[:: max(1, len(face) // 40)]
        masks = [open_font(self.files[number]).getmask(character) for character, number in some]
        boxes = [mask.getbbox() or (0, 0, GLYPH, GLYPH) for mask in masks]
        return float(np.median([max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]))


@functools.lru_cache(maxsize=4)
def open_fonts(folder: str, characters: Sequence[str]) -> Fonts | None:
    """Return the fonts of a folder, the same ones every time in a process; None for ''."""
    return Fonts(folder, characters) if folder else None


@functools.lru_cache(maxsize=1024)
def open_font(path: str):
    """Open a font file with Pillow; ValueError if it cannot be read."""
    try:
        from PIL import ImageFont
    except ImportError as error:
        raise needs("drawing with fonts", error) from None
    try:
        return ImageFont.truetype(path, GLYPH, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise ValueError(f"{path}: not a font that FreeType reads ({error})") from error


def covered(font, characters: Sequence[str]) -> list[str]:
    """Return those of `characters` which the font has: neither blank nor a mark of absence."""
    nothing = "\U000ffffd"  # of the private use, which no font has
    absent = font.getbbox(nothing)
    small = font.font_variant(size=24) if font.getmask(nothing).getbbox() else None

    def has(character: str) -> bool:
        if font.getbbox(character) != absent:
            return font.getmask(character).getbbox() is not None
        return small is not None and bytes(small.getmask(character)) != mark

    mark = bytes(small.getmask(nothing)) if small else b""
    return [c for c in characters if has(c)]


@functools.cache
def font_template(path: str, character: str, size: float) -> Template | None:
    """Thin a glyph to its skeleton; None if nothing is left. `size` px become FONT_EM."""
    mask = open_font(path).getmask(character, mode="L")
    w, h = mask.size
    picture = np.pad(np.array(mask, np.uint8).reshape(h, w), 3)
    skeleton = thin((cv2.GaussianBlur(picture, (0, 0), 0.8) > 127).astype(np.uint8))
    pieces, label = cv2.connectedComponents(skeleton, connectivity=8)
    y, x = np.nonzero(skeleton)
    if len(y) == 0:
        return None
    # A point for every 2 x 2 pixels is enough: an em is rarely drawn larger than 100 px.
    kept = np.unique((y // 2) * w + x // 2, return_index=True)[1]
    y, x = y[kept], x[kept]
    depth = cv2.distanceTransform((picture > 127).astype(np.uint8), cv2.DIST_L2, 5)
    scale = FONT_EM / size
    radius = depth[y, x] * scale
    owner = label[y, x] - 1
    count = pieces - 1
    points = (x + 1j * y) * scale
    low, high = box(points)
    points -= (low + high) / 2
    x, y = points.real, points.imag
    centre = np.bincount(owner, x, count) + 1j * np.bincount(owner, y, count)
    centre /= np.maximum(np.bincount(owner, minlength=count), 1)
    none, no_ends = np.zeros(len(points)), np.zeros(count, np.int64)
    kind, stroke, radical = np.full(count, KINDS.index("whole")), np.arange(count), no_ends > 0
    return Template(points, owner, none, owner, none, kind, stroke, centre, no_ends, no_ends,
                    no_ends, radical, radius)  # fmt: skip


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
