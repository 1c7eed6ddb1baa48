"""Templates: characters as undistorted strokes, which writer.py distorts and inks.

    stroke_template("说")                   # as printed
    stroke_template("说", straight=True)    # in straight lines
    stroke_template("a", variant=1)         # the second way to write a symbol

The stroke data is in strokes/, see its README.md. trajectories.py makes templates of real pen
trajectories, fonts.py makes those of font files.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("strokes")
STEP = 0.025  # em between neighbouring points of a template
GAP = 6  # points that bridge two strokes
TYPICAL = 0.9  # em; longer side of a typical character of a font or a writer; box of a symbol
# Kinds of straight pieces: 横, 竖, 撇, 捺, 点 and 提; for fonts, whole components.
KINDS = ("across", "down", "left", "right", "dot", "rise", "whole")


@dataclass(frozen=True)
class Template:
    """A character: N points in em, n strokes, m straight pieces; the origin is its box's centre.

    Points are x + iy, y down, in the order of writing; GAP points follow every stroke but the last,
    for the movement to the next one. A font's are the unordered points of a skeleton, and its
    connected components take the place of strokes.
    """

    points: np.ndarray  # (N,) complex
    owner: np.ndarray  # (N,) stroke that each point belongs to
    piece: np.ndarray  # (N,) straight piece that each point belongs to
    kind: np.ndarray  # (m,) kind of each piece, an index into KINDS
    stroke: np.ndarray  # (m,) stroke that each piece belongs to
    centre: np.ndarray  # (n,) complex, centre of each stroke
    radical: np.ndarray  # (n,) bool, whether the stroke is part of the radical
    along: np.ndarray | None = None  # (N,) position of each point in its piece, -0.5..0.5
    first: np.ndarray | None = None  # (n,) index of each stroke's first point
    last: np.ndarray | None = None  # (n,) index of each stroke's last point
    radius: np.ndarray | None = None  # (N,) em, half the stroke width; of fonts, instead of these

    def stroke_means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean (n,) of values (N,) over the points of each stroke, without gaps."""
        bounds = np.stack([self.first, self.last + 1], axis=1).ravel()[:-1]
        return np.add.reduceat(values, bounds)[::2] / (self.last - self.first + 1)


@functools.cache
def stroke_data() -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Return for each character its strokes as polylines (k,) in em, and which are the radical."""
    with np.load(FOLDER / "medians.npz") as arrays:
        steps = arrays["steps"].astype(np.int64)
        x, y = np.cumsum(steps, axis=1) % 256 / 256
        lines = np.split(x + 1j * y, np.cumsum(arrays["points"].astype(np.int64))[:-1])
        ends = np.cumsum(arrays["strokes"].astype(np.int64))
        radical = np.unpackbits(arrays["radical"])[: len(lines)].astype(bool)
        parts = zip(arrays["characters"], arrays["strokes"], ends, strict=True)
        return {chr(c): (lines[end - n : end], radical[end - n : end]) for c, n, end in parts}


@functools.lru_cache(maxsize=8192)
def stroke_template(character: str, variant: int = 0, straight: bool = False) -> Template:
    """Return the template of a character, `straight` between corners, or of a variant of a symbol.

    Raises ValueError for an unknown character.
    """
    if character in symbols():
        return lay_out(symbols()[character][variant])
    if character not in stroke_data():
        raise ValueError(f"no strokes are known for {character!r}; give fonts that have it")
    lines, radical = stroke_data()[character]
    return lay_out([straighten(line) for line in lines] if straight else lines, radical)


def lay_out(lines: list[np.ndarray], radical: np.ndarray | None = None) -> Template:
    """Make a template of strokes: n polylines (k,) in em, and which are the radical, (n,) bool."""
    strokes = [resample(line) for line in lines]
    low, high = box(np.concatenate(strokes))
    points = np.concatenate([np.append(stroke, np.zeros(GAP)) for stroke in strokes])[:-GAP]
    points -= (low + high) / 2
    size = np.array([len(stroke) for stroke in strokes])
    first = np.cumsum(size + GAP) - size - GAP
    last = first + size - 1
    owner = np.repeat(np.arange(len(strokes)), size + GAP)[:-GAP]
    start = np.concatenate([at + piece_starts(s) for at, s in zip(first, strokes, strict=True)])
    stroke = owner[start]
    piece = np.searchsorted(start, np.arange(len(points)), side="right") - 1
    end = np.minimum(np.append(start[1:], len(points)) - 1, last[stroke])
    along = (np.arange(len(points)) - start[piece]) / np.maximum(end - start, 1)[piece] - 0.5
    return Template(
        points=points,
        owner=owner,
        piece=piece,
        along=np.minimum(along, 0.5),
        kind=kind_of(points[end] - points[np.maximum(start - 1, first[stroke])]),
        stroke=stroke,
        centre=np.array([points[i : j + 1].mean() for i, j in zip(first, last, strict=True)]),
        radical=np.zeros(len(strokes), bool) if radical is None else radical,
        first=first,
        last=last,
    )


def box(points: np.ndarray) -> tuple[complex, complex]:
    """Return the upper left and the lower right corner of points (N,)."""
    x, y = points.real, points.imag
    return complex(x.min(), y.min()), complex(x.max(), y.max())


def resample(line: np.ndarray) -> np.ndarray:
    """Return at least 3 evenly spaced points along a polyline (k,), about STEP apart."""
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(line)))])
    at = np.linspace(0, along[-1], max(3, round(along[-1] / STEP) + 1))
    return np.interp(at, along, line)


def piece_starts(line: np.ndarray) -> np.ndarray:
    """Return where straight pieces of a resampled stroke (k,) start: at 0 and after its corners.

    A corner is where the direction turns by more than 50 degrees within four steps.
    """
    count = len(line)
    index = np.arange(1, count - 1)
    ahead = line[np.minimum(index + 2, count - 1)] - line[index]
    behind = line[index] - line[np.maximum(index - 2, 0)]
    turn = np.abs(np.angle(ahead * behind.conj()))
    padded = np.concatenate([[0, 0, 0], turn, [0, 0, 0]])
    sharpest = functools.reduce(np.maximum, (padded[k : k + len(turn)] for k in range(7)))
    corner = (turn > 0.87) & (turn == sharpest) & (index > 1) & (index < count - 2) & (count > 5)
    return np.append(0, index[corner] + 1)


def kind_of(chord: np.ndarray) -> np.ndarray:
    """Return the kind (m,) of straight pieces with these chords (m,), as an index into KINDS."""
    angle = np.degrees(np.angle(chord))
    bounds = [-40, 20, 60, 112]  # rise | across | right falling | down | left falling
    kind = np.array([5, 0, 3, 1, 2])[np.searchsorted(bounds, angle)]
    return np.where(np.abs(chord) < 0.2, 4, kind)


def straighten(line: np.ndarray) -> np.ndarray:
    """Return the corners (k,) of a polyline; nearly level and upright pieces become exactly so."""
    points = resample(line)
    line = points[[0, *(piece_starts(points)[1:] - 1), -1]]
    for k in range(1, len(line)):
        way = line[k] - line[k - 1]
        if abs(way.imag) < 0.35 * abs(way.real):
            line[k] = line[k].real + 1j * line[k - 1].imag
        elif abs(way.real) < 0.2 * abs(way.imag):
            line[k] = line[k - 1].real + 1j * line[k].imag
    return line


@functools.cache
def symbols() -> dict[str, list[list[np.ndarray]]]:
    """Return the symbols of symbols.txt: a list of variants, each a list of polylines in em."""
    found: dict[str, list[list[np.ndarray]]] = {}
    text = (FOLDER / "symbols.txt").read_text(encoding="utf-8")
    for line in text.partition("\n\n")[2].splitlines():  # after the header
        symbol, text = line.split(None, 1)
        if "@" in text:
            parts = text.split()
            lines = [line for part in parts for line in fit(found[part[0]][0], part[2:])]
        else:
            lines = [parse_stroke(stroke) * TYPICAL for stroke in text.split("|")]
        found.setdefault(symbol, []).append(lines)
    return found


def fit(lines: list[np.ndarray], place: str) -> list[np.ndarray]:
    """Move and stretch polylines so that they fill a box, given as four digits."""
    x, y, w, h = (int(digit) / 9 * TYPICAL for digit in place)
    low, high = box(np.concatenate(lines))
    wider, higher = w / max((high - low).real, 0.04), h / max((high - low).imag, 0.04)
    moved = (line - low for line in lines)
    return [complex(x, y) + line.real * wider + 1j * line.imag * higher for line in moved]


def parse_stroke(text: str) -> np.ndarray:
    """Parse points like `04 44` into a polyline (k,) in the unit box; ~ makes it a smooth curve."""
    line = np.array([complex(int(x), int(y)) for x, y in text.strip("~ ").split()]) / 9
    if "~" not in text:
        return line
    # Catmull and Rom 1974
    p = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    t = np.linspace(0, 1, 8, endpoint=False)
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    arc = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.append(arc.ravel(), line[-1])
