"""Templates: characters as undistorted strokes, which writer.py distorts and inks.

    parts("说")                       # ((0, 2, "讠"), (4, 7, "口")), with component numbers
    stroke_template("说")             # as printed
    stroke_template("说", (1, 0))     # 讠 in its first abbreviation, 口 as printed
    stroke_template("王", (), (1,))   # second and third stroke in the other order
    straight_template("说")           # in horizontal, vertical and straight lines

source                 content
strokes/medians.npz    strokes of the 3755 level-1 characters (see strokes/README.md)
strokes/forms.txt      abbreviations of components, strokes of the symbols

Templates of real pen trajectories are made in trajectories.py, those of font files in fonts.py.
Nothing here is random. Stroke outlines are left out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).with_name("strokes")
STEP = 0.025  # em between neighbouring points of a template
GAP = 6  # points that bridge two strokes
SYMBOL_EM = 0.9  # em; height of the box of a symbol
TYPICAL = 0.9  # em; longer side of a typical character of a font or of a real writer
NO_POINTS = np.zeros(GAP)
# Kinds of straight pieces: 横, 竖, 撇, 捺, 点 and 提; for fonts, whole components.
KINDS = ("across", "down", "left", "right", "dot", "rise", "whole")


@dataclass(frozen=True)
class Template:
    """A character: N points in em, n strokes, m straight pieces; the origin is its box's centre.

    Points are complex numbers: x to the right, imaginary part down. The points of a stroke are
    consecutive; GAP points follow every stroke but the last, for the movement to the next one. The
    template of a font is an unordered set of skeleton points with a `radius`; its connected
    components take the place of strokes.
    """

    points: np.ndarray  # (N,) complex
    owner: np.ndarray  # (N,) stroke that each point belongs to
    place: np.ndarray  # (N,) position of each point in its stroke, 0..1
    piece: np.ndarray  # (N,) straight piece that each point belongs to
    along: np.ndarray  # (N,) position of each point in its piece, -0.5..0.5
    kind: np.ndarray  # (m,) kind of each piece, an index into KINDS
    stroke: np.ndarray  # (m,) stroke that each piece belongs to
    centre: np.ndarray  # (n,) complex, centre of each stroke
    first: np.ndarray  # (n,) index of each stroke's first point
    last: np.ndarray  # (n,) index of each stroke's last point
    hook: np.ndarray  # (n,) index where the end hook starts, `last` without a hook
    radical: np.ndarray  # (n,) bool, whether the stroke is part of the radical
    radius: np.ndarray | None = None  # (N,) em, half the stroke width; fonts only

    def stroke_means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean (n,) of values (N,) over the points of each stroke, without gaps."""
        bounds = np.stack([self.first, self.last + 1], axis=1).ravel()[:-1]
        return np.add.reduceat(values, bounds)[::2] / (self.last - self.first + 1)


class Component(NamedTuple):
    """A component as printed, and its abbreviations."""

    name: str
    shape: np.ndarray  # (strokes, 6) complex, as returned by `outline`
    place: str  # start, end, alone or any: where in the stroke order it may occur
    absent: str  # characters that only look as if they contained it
    forms: list[list[np.ndarray]]  # abbreviations, each a list of polylines in the unit box


class Stroke(NamedTuple):
    """One stroke with evenly spaced points."""

    points: np.ndarray  # (k,) complex, em
    piece: np.ndarray  # (k,) straight piece that each point belongs to, from 0
    hook: int  # index where the end hook starts, the last index without a hook

    @classmethod
    def along(cls, line: np.ndarray) -> Stroke:
        """Return the stroke that follows a polyline (k,)."""
        points = resample(line)
        return cls(points, straight_pieces(points), hook_start(points))


# Strokes ----------------------------------------------------------------------------------------


@functools.cache
def stroke_data() -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Return for each character its strokes as polylines (k,) in em, and which are the radical."""
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
    """Return the template of a character, or of one variant of a symbol.

    `forms` selects an abbreviation (from 1; 0 = as printed) for each of `parts(character)`; for a
    symbol it holds the index of the variant. `swaps` are strokes that are written after the next
    one (some of `crossings(character)`). Raises ValueError for an unknown character.
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
    """Return the strokes of a character as printed, and which are the radical (n,) bool."""
    if character not in stroke_data():
        raise ValueError(f"no strokes are known for {character!r}; give fonts that have it")
    lines, radical = stroke_data()[character]
    return [Stroke.along(line) for line in lines], radical


@functools.lru_cache(maxsize=8192)
def crossings(character: str) -> tuple[int, ...]:
    """Return the strokes that cross the next one; their order varies between writers.

    For example, the vertical stroke of 十, 土 or 王 is often written before the horizontal one in
    running script. Strokes next to the border of a component of `parts` are excluded.
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
    """Return whether two polylines (k,) and (m,) cross."""

    def side(start: np.ndarray, end: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return the side of each line on which each point lies, (lines, points) of -1, 0, 1."""
        way = (end - start)[:, None].conj() * (points - start[:, None])
        return np.sign(way.imag)

    apart = side(one[:-1], one[1:], other)
    across = side(other[:-1], other[1:], one)
    return bool(((apart[:, :-1] * apart[:, 1:] < 0) & (across[:, :-1] * across[:, 1:] < 0).T).any())


def lay_out(strokes: list[Stroke], radical: np.ndarray) -> Template:
    """Join strokes into a template, with GAP points between them; `radical` (n,) bool."""
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
    """Move a polyline from the unit box to the box at `corner`, at least 0.05 em wide and high."""
    w, h = max(size.real, 0.05), max(size.imag, 0.05)
    return corner + line.real * w + 1j * (line.imag * h)


def resample(line: np.ndarray, count: int | None = None) -> np.ndarray:
    """Return at least 3 evenly spaced points along a polyline (k,), by default STEP apart."""
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(line)))])
    at = np.linspace(0, along[-1], count or max(3, round(along[-1] / STEP) + 1))
    return np.interp(at, along, line)


def straight_pieces(line: np.ndarray) -> np.ndarray:
    """Return the straight piece (k,) that each point of a resampled stroke belongs to, from 0.

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
    padded = np.concatenate([[0, 0, 0], turn, [0, 0, 0]])
    near = functools.reduce(np.maximum, (padded[k : k + len(turn)] for k in range(7)))
    corner = (turn > 0.87) & (turn == near) & (index > 1) & (index < count - 2)
    piece = np.zeros(count, np.int64)
    piece[index + 1] = np.cumsum(corner)
    return piece


def kind_of(chord: np.ndarray) -> np.ndarray:
    """Return the kind (m,) of straight pieces with these chords (m,), as an index into KINDS."""
    angle = np.degrees(np.angle(chord))
    bounds = [-40, 20, 60, 112]  # rise | across | right falling | down | left falling
    kind = np.array([5, 0, 3, 1, 2])[np.searchsorted(bounds, angle)]
    return np.where(np.abs(chord) < 0.2, 4, kind)


def hook_start(line: np.ndarray) -> int:
    """Return the index where the end hook of a resampled stroke starts, or its last index.

    A hook is a sharp turn (> 70 degrees) within the last third and the last eight steps.
    """
    count = len(line)
    angle = np.angle(np.diff(line))
    for k in range(max(count - 8, count * 2 // 3), count - 2):
        turn = angle[min(count - 2, k + 2)] - angle[max(0, k - 3)]
        if abs((turn + np.pi) % (2 * np.pi) - np.pi) > 1.2:
            return k + 1
    return count - 1


@functools.lru_cache(maxsize=8192)
def straight_template(character: str) -> Template:
    """Return a character in the geometric style of print: strokes are straight between corners."""
    strokes, radical = printed_strokes(character)
    return lay_out([Stroke.along(straighten(stroke)) for stroke in strokes], radical)


def straighten(stroke: Stroke) -> np.ndarray:
    """Return the corners (k,) of a stroke, with nearly level and upright pieces made exactly so."""
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
    """Find components that have abbreviations: (first stroke, last + 1, index in `components()`).

    All strokes come from one typeface, so a component looks much the same in every character: its
    strokes are compared, as six points each, after scaling to the unit box.
    """
    if character not in stroke_data():
        return ()
    drawn = np.stack([resample(line, 6) for line in stroke_data()[character][0]])
    total = len(drawn)
    found, taken = [], np.zeros(total, bool)
    for count, (numbers, shapes) in shapes_by_size().items():
        if count > total:
            continue
        index = np.arange(total - count + 1)[:, None] + np.arange(count)
        runs = outline(drawn[index])  # all k runs of as many strokes, (k, count, 6)
        error = np.abs(runs - shapes[:, None]).mean(axis=3)  # (components, k, count)
        alike = (error.mean(axis=2) < 0.09) & (error.max(axis=2) < 0.17)
        for row, start in np.argwhere(alike).tolist():
            component, stop = components()[numbers[row]], start + count
            at_start, at_end = start == 0, stop == total
            fits = {"start": at_start, "end": at_end, "alone": at_start and at_end, "any": True}
            free = character not in component.absent and not taken[start:stop].any()
            if fits[component.place] and free:
                found.append((start, stop, numbers[row]))
                taken[start:stop] = True
    return tuple(sorted(found))


@functools.cache
def shapes_by_size() -> dict[int, tuple[list[int], np.ndarray]]:
    """Return number of strokes n -> indices in `components()` and shapes (m, n, 6)."""
    groups: dict[int, list[int]] = {}
    for number, component in enumerate(components()):
        groups.setdefault(len(component.shape), []).append(number)
    return {
        count: (numbers, np.stack([components()[number].shape for number in numbers]))
        for count, numbers in groups.items()
    }


def outline(runs: np.ndarray) -> np.ndarray:
    """Scale runs of strokes (..., n, 6) to the unit box, each run separately."""

    def fill(value: np.ndarray) -> np.ndarray:
        low = value.min(axis=(-2, -1), keepdims=True)
        return (value - low) / np.maximum(value.max(axis=(-2, -1), keepdims=True) - low, 0.04)

    return fill(runs.real) + 1j * fill(runs.imag)


@functools.cache
def components() -> list[Component]:
    """Return the components of forms.txt, those with many strokes first."""
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
    """Return the symbols of forms.txt: a list of variants, each a list of polylines in em."""
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
    """Return the lines of a section of forms.txt, [components] or [symbols], the last one."""
    text = (FOLDER / "forms.txt").read_text(encoding="utf-8")
    section = text.partition(f"[{name}]\n")[2].partition("\n[symbols]\n")[0]
    return [line for line in section.splitlines() if line]


def parse_strokes(text: str) -> list[np.ndarray]:
    """Parse `00 99 | ~40 04` into polylines (k,) in the unit box; ~ marks a smooth curve."""
    lines = []
    for stroke in text.split("|"):
        points = stroke.replace("~", "").split()
        line = np.array([complex(int(x), int(y)) for x, y in points]) / 9
        lines.append(curve(line) if "~" in stroke else line)
    return lines


def curve(line: np.ndarray) -> np.ndarray:
    """Return a smooth curve through the points of a polyline (Catmull and Rom 1974)."""
    p = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    t = np.linspace(0, 1, 8, endpoint=False)
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    arc = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.append(arc.ravel(), line[-1])
