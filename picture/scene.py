"""Find the character on its paper: lines, frames, circles and pieces of neighbours are left out.

    ink (h,w) uint8, 0 = paper -> Scene: the ink of one character, and what was left out

A ruled line ends at the border of the picture, at the corner of a frame or at another line; a
stroke ends in the white. So thin, straight runs of ink (also dashed, tilted, slightly bent) are
lines if both their ends are held that way. A line is erased but where a stroke crosses it or runs
along it. What is left falls into pieces; those that the border cuts, or that stand apart from the
middle ones, belong to other characters. Where the evidence is weak, all ink stays as it is.

numpy and OpenCV only. Left out: reading whole lines or pages.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

INK = 48  # of 255: from here on a pixel is ink
CANDIDATES = 40  # straight runs that are looked at
THICK = 0.045  # the widest line, as a share of the picture's longer side


class Mark(NamedTuple):
    """What was left out."""

    kind: str  # line, circle, piece, speck
    box: tuple[int, int, int, int]  # top, bottom, left, right


class Scene(NamedTuple):
    """A character without what stood around it."""

    ink: np.ndarray  # (h,w) uint8, 0 = paper
    marks: list[Mark]
    more: bool  # other whole characters were left out


class Line(NamedTuple):
    """A thin run of ink, a step every one or two pixels."""

    x: np.ndarray  # (T,) float
    y: np.ndarray
    width: float
    present: np.ndarray  # (T,) bool: there is ink
    solo: np.ndarray  # (T,) bool: there is ink of the line's width
    rough: float  # px, by which the run's middle leaves the line
    centre: complex = 0j  # of a circle
    radius: float = 0.0

    @property
    def closed(self) -> bool:
        """Whether it is a circle."""
        return self.radius > 0

    @property
    def angle(self) -> float:
        return float(np.arctan2(self.y[-1] - self.y[0], self.x[-1] - self.x[0]))

    @property
    def gap(self) -> float:
        """The usual length of a gap between dashes in pixels, 0 if there are none."""
        return self.length * _usual(~self.present) / len(self.x)

    @property
    def length(self) -> float:
        return float(np.hypot(self.x[-1] - self.x[0], self.y[-1] - self.y[0]))


def _stretches(marked: np.ndarray) -> np.ndarray:
    """Return start and stop (n,2) of the stretches of a (T,) bool array."""
    edge = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    return edge.reshape(-1, 2)


def _usual(marked: np.ndarray) -> float:
    lengths = np.diff(_stretches(marked), axis=1)
    return float(np.median(lengths)) if len(lengths) else 0.0


def find_character(ink: np.ndarray) -> Scene:
    """Leave out what does not belong to the character in the middle.

    Args:
        ink: (h,w) uint8, 0 = paper, at most some hundred pixels a side.
    """
    mask = (ink > INK).view(np.uint8)
    lines = find_lines(mask)
    erased = erase(mask, lines) if lines else np.zeros_like(mask)
    circle = find_circle(mask & ~erased)
    if circle:
        lines += [circle, *_dashes(mask, circle)]
        erased = erase(mask, lines)
    tight = not circle and _is_tight(ink)
    if tight and not _is_printed(lines, max(ink.shape)):
        return Scene(ink, [], False)
    outside = _outside(circle, mask.shape) if circle else None
    keep, marks, more = _choose(mask & ~erased, ink, erased if lines else None, outside)
    if tight and np.median([line.width for line in lines]) > 0.65 * _pen(keep):
        return Scene(ink, [], False)
    if not lines and not marks or not _plausible(keep, mask, lines, ink):
        return Scene(ink, [], False)
    keep = cv2.dilate(keep, np.ones((3, 3), np.uint8)) & ~erased
    for line in lines:
        box = _box(line.x.min(), line.y.min(), line.x.max(), line.y.max())
        marks.append(Mark("circle" if line.closed else "line", box))
    return Scene(ink * keep, marks, more)


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


def _is_printed(lines: list[Line], side: int) -> bool:
    """Tell whether lines are as long, straight and parallel as only printed frames are."""
    if len(lines) < 3 or min(line.length for line in lines) < 0.75 * side:
        return False
    turned = np.array([np.degrees(line.angle) % 45 for line in lines])
    return max(line.rough for line in lines) < 0.5 and np.ptp((turned + 22 - turned[0]) % 45) < 4


def _pen(mask: np.ndarray) -> float:
    """Return the usual width of the strokes of a mask (h,w) uint8, 0 where there are none."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    return float(4 * depth.sum() / max(int(mask.sum()), 1))


def _plausible(keep: np.ndarray, mask: np.ndarray, lines: list[Line], ink: np.ndarray) -> bool:
    """Tell whether the pieces kept are a character among other things, not a part of a tight one.

    A tight crop touches the border wherever something is taken from it. A frame all by itself is
    the character's own (国, 日) if the same pen drew it.
    """
    h, w = mask.shape
    side = max(h, w)
    rows, columns = np.flatnonzero(keep.any(1)), np.flatnonzero(keep.any(0))
    if not len(rows) or keep.sum() < 0.03 * mask.sum():
        return False
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    margins = np.array([top, left, h - 1 - bottom, w - 1 - right])
    if (margins < 2).sum() > (1 if lines else 0):
        return False
    high, wide = bottom - top + 1, right - left + 1
    if max(high, wide) < 0.12 * side:
        return False
    if lines:
        return _foreign(lines, keep, ink, (top, bottom, left, right))
    touched = sum(one.any() for one in (mask[:2], mask[-2:], mask[:, :2], mask[:, -2:]))
    if touched < 2:
        return True
    off = np.hypot((top + bottom + 1) / h - 1, (left + right + 1) / w - 1) / 2
    return max(high, wide) > 0.33 * side and off < 0.15 and keep.sum() > 0.4 * mask.sum()


def _foreign(lines: list[Line], keep: np.ndarray, ink: np.ndarray, box) -> bool:
    """Tell whether lines are others than a frame which the character's pen has drawn."""
    h, w = keep.shape
    held = any(
        min(x, y, w - 1 - x, h - 1 - y) < 1.5
        for line in lines
        for x, y in ((line.x[0], line.y[0]), (line.x[-1], line.y[-1]))
    )
    if held or len(lines) > 4:
        return True
    top, bottom, left, right = box
    apart = min(
        np.hypot(
            np.maximum(0, np.maximum(line.x - right, left - line.x)),
            np.maximum(0, np.maximum(line.y - bottom, top - line.y)),
        ).min()
        for line in lines
    )
    if apart < 4:
        return False
    turned = [np.degrees(line.angle) % 90 for line in lines]
    turned = [min(t, 90 - t) for t in turned]
    if max(turned) - min(turned) < 1.5 and max(line.rough for line in lines) < 0.5:
        return True  # as printed
    strong = keep.astype(bool)
    pen = _pen(keep)
    dark = ink[strong].mean()
    width = np.median([line.width for line in lines])
    line = lines[0]
    grey = np.median(ink[np.rint(line.y).astype(int), np.rint(line.x).astype(int)])
    alike = 0.7 < width / pen < 1.4 and 0.75 < grey / dark < 1.33
    return not alike or max(bottom - top, right - left) > 0.7 * max(line.length for line in lines)


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
    return round(y0), round(y1) + 1, round(x0), round(x1) + 1


# Lines ------------------------------------------------------------------------------------------


def find_lines(mask: np.ndarray) -> list[Line]:
    """Return the lines of a mask (h,w) uint8 whose ends are held by the border or by each other."""
    side = max(mask.shape)
    even = cv2.copyMakeBorder(mask, 0, mask.shape[0] % 2, 0, mask.shape[1] % 2, cv2.BORDER_CONSTANT)
    half = even[::2, ::2] | even[1::2, ::2] | even[::2, 1::2] | even[1::2, 1::2]
    found = cv2.HoughLines(half, 1, np.pi / 120, max(12, int(0.17 * side)))
    if found is None:
        return []
    rho, theta = _apart(found[:400, 0], side / 2)
    return _held(_trace(mask, 2 * rho + 0.5, theta), mask.shape)


def _apart(found: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Choose lines (rho, theta), strongest first, that differ by some pixels or degrees."""
    rho, theta = found.T.astype(float)
    away = rho - (np.cos(theta) + np.sin(theta)) * side / 2  # from the middle of the picture
    turn = np.abs(theta[:, None] - theta)
    near = 0.03 * side + 2
    same = (turn < 0.09) & (np.abs(away[:, None] - away) < near)
    same |= (turn > np.pi - 0.09) & (np.abs(away[:, None] + away) < near)
    free = np.ones(len(found), bool)
    chosen = []
    while len(chosen) < CANDIDATES and free.any():
        chosen.append(int(free.argmax()))
        free &= ~same[chosen[-1]]
    return rho[chosen], theta[chosen]


def _extents(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last row of the vertical run of ink at every pixel, (h,w) int16."""
    h = len(mask)
    row = np.arange(h, dtype=np.int16)[:, None]
    first = np.maximum.accumulate(np.where(mask, np.int16(-1), row), 0) + 1
    last = np.minimum.accumulate(np.where(mask, np.int16(h), row)[::-1], 0)[::-1] - 1
    return first.astype(np.int16), last.astype(np.int16)


def _trace(mask: np.ndarray, rho: np.ndarray, theta: np.ndarray) -> list[Line]:
    """Follow thin ink along lines rho = x cos theta + y sin theta; leave out what is none."""
    lines = []
    for upright in (False, True):
        image = mask.T if upright else mask
        steep = np.abs(np.cos(theta)) > np.sqrt(0.5)
        here = steep if upright else ~steep
        if not here.any():
            continue
        c, s = np.cos(theta[here]), np.sin(theta[here])
        if upright:
            c, s = s, c
        lines += _trace_level(np.ascontiguousarray(image), rho[here], c, s, upright)
    return lines


def _trace_level(image, rho, c, s, upright) -> list[Line]:
    """Trace lines y = (rho - c x) / s of at most 45 degrees."""
    h, w = image.shape
    side = max(h, w)
    extents = _extents(image)
    x = np.arange(0, w, 2 if side >= 128 else 1)
    y = (rho[:, None] - c[:, None] * x) / s[:, None]  # (L,T)
    level = np.abs(s)[:, None]  # cosine of the slope: from heights to widths
    width, middle = _across(image, *extents, x, y)
    width *= level
    typical = _low(width)
    solo = (width > 0) & (width <= 1.4 * typical + 1)
    good = (typical[:, 0] <= max(3, THICK * side)) & (solo.sum(1) >= 0.1 * len(x))
    if not good.any():
        return []
    y, typical, level = y[good], typical[good], level[good]
    bend, bent = _bend(x / w - 0.5, middle[good] - y, solo[good])
    y += bend
    width, middle = _across(image, *extents, x, y)
    width *= level
    off = np.abs(middle - y) * level
    inside = (width > 0) & (y > -1.5) & (y < h + 0.5)
    solo = inside & (width <= 1.4 * typical + 1) & (off <= 1.6)
    present = solo | (inside & (off <= width / 2))
    lines = []
    for i in np.flatnonzero((bent <= 0.04 * side) & (solo.sum(1) >= 0.1 * len(x))):
        stretch = _stretch(x, y[i], present[i], solo[i], off[i], side)
        if stretch is not None:
            part = slice(*stretch)
            here = solo[i, part]
            path = (x[part].astype(float), y[i, part])
            rough = float(np.sqrt(np.mean(off[i, part][here] ** 2)))
            wide = float(np.median(width[i, part][here]))
            lines.append(
                Line(*(path[::-1] if upright else path), wide, present[i, part], here, rough)
            )
    return lines


def _bend(t: np.ndarray, off: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit parabolas over t (T,) to the chosen of `off` (L,T): values, and how bent."""
    powers = t ** np.arange(5)[:, None]
    bend = np.zeros_like(off)
    for near in (np.inf, 1.5):
        weight = chosen & (np.abs(off - bend) <= near)
        moments = weight @ powers.T
        system = moments[:, np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4]])]
        system[:, [0, 1, 2], [0, 1, 2]] += np.array([0.01, 0.1, 1.0])
        right = (weight * off) @ powers[:3].T
        factors = np.linalg.solve(system, right[..., None])[..., 0]
        bend = factors @ powers[:3]
    return bend, np.abs(factors[:, 2]) / 4


def _across(image, first, last, x, y) -> tuple[np.ndarray, np.ndarray]:
    """Return height and middle of the run of ink at or next to y (L,T); height 0 for none."""
    h, w = image.shape
    at = np.rint(y).astype(np.int32) * w + x
    flat = at
    found = np.zeros(y.shape, bool)
    for o in (0, -1, 1, -2, 2):
        here = at + o * w
        # Outside of the picture: any pixel; only lines along the border are not sure of theirs.
        ink = image.ravel().take(here, mode="clip").view(bool)
        flat = np.where(ink & ~found, here, flat)
        found |= ink
    top, bottom = first.ravel().take(flat, mode="clip"), last.ravel().take(flat, mode="clip")
    return np.where(found, bottom - top + 1.0, 0.0), (top + bottom) * 0.5


def _low(width: np.ndarray) -> np.ndarray:
    """Return the third decile (L,1) of the widths that are not 0."""
    ordered = np.sort(width, 1)
    empty = (width == 0).sum(1)
    at = empty + (0.3 * (width.shape[1] - empty)).astype(int)
    return np.take_along_axis(ordered, at.clip(0, width.shape[1] - 1)[:, None], 1)


def _stretch(x, y, present, solo, off, side) -> tuple[int, int] | None:
    """Return the longest stretch of steps that may be a line; None if there is none."""
    at = np.flatnonzero(present)
    step = x[1] - x[0]
    parts = np.split(at, np.flatnonzero(np.diff(at) * step > max(4, 0.1 * side)) + 1)
    part = max(parts, key=len)
    part = part[solo[part]]
    if len(part) < 4:
        return None
    a, b = int(part[0]), int(part[-1]) + 1
    if np.hypot(x[b - 1] - x[a], y[b - 1] - y[a]) < 0.4 * side or solo[a:b].mean() < 0.25:
        return None
    if np.sqrt(np.mean(off[a:b][solo[a:b]] ** 2)) > 0.9:
        return None
    if present[a:b].mean() < 0.9 and len(_stretches(present[a:b])) < 4:
        return None
    return a, b


def _held(lines: list[Line], shape: tuple[int, int]) -> list[Line]:
    """Keep lines that end at the border, at the corners of a frame, or at such lines."""
    side = max(shape)
    frame = list(lines)
    while True:  # border to border, or corner to corner
        kept = [a for a in frame if _spans(a, frame, shape, True)]
        if len(kept) == len(frame):
            break
        frame = kept
    accepted = frame
    while accepted:
        more = [
            a
            for a in lines
            if a.length > 0.4 * side
            and not any(a is b for b in accepted)
            and any(_regular(a, b) for b in accepted)
            and _spans(a, accepted, shape, False)
        ]
        if not more:
            break
        accepted = accepted + more
    return accepted


def _regular(line: Line, other: Line) -> bool:
    """Tell whether two lines are at 0, 45 or 90 degrees to each other, give or take."""
    turned = np.degrees(line.angle - other.angle) % 45
    return min(turned, 45 - turned) < 8


def _spans(line: Line, others: list[Line], shape: tuple[int, int], corner: bool) -> bool:
    """Tell whether both ends of a line are at the border or at two of the other lines."""
    h, w = shape
    side = max(shape)
    tolerance = (0.05 if corner else 0.025) * side + line.width
    if line.present.mean() < 0.9:
        tolerance = min(0.02 * side + 1.5 * line.gap, 0.1 * side) + line.width
        others = [] if corner else others
    holders = []
    for x, y in ((line.x[0], line.y[0]), (line.x[-1], line.y[-1])):
        here = set()
        away = (x, y, w - 1 - x, h - 1 - y)
        if min(away) <= max(2, tolerance - 0.03 * side - line.width):
            here.add(-1 - int(np.argmin(away)))
        for i, other in enumerate(others):
            if other is line or abs(np.sin(other.angle - line.angle)) < (0.9 if corner else 0.4):
                continue
            at = [0, -1] if corner else slice(None)
            if np.hypot(other.x[at] - x, other.y[at] - y).min() <= tolerance:
                here.add(i)
        holders.append(here)
    return bool(holders[0] and holders[1] and len(holders[0] | holders[1]) > 1)


# Circles ----------------------------------------------------------------------------------------


def find_circle(mask: np.ndarray) -> Line | None:
    """Return the large circle of a mask (h,w) uint8, as practice paper has one in each cell."""
    h, w = mask.shape
    side = max(h, w)
    y, x = np.nonzero(mask)
    dx, dy = x - w / 2, y - h / 2
    outer = np.hypot(dx, dy) > 0.27 * side
    octant = (np.arctan2(dy, dx)[outer] / (np.pi / 4)).astype(int) + (dy[outer] < 0) * 10
    if outer.sum() < side / 3 or (np.bincount(octant + 10) > 3).sum() < 5:
        return None
    x, y = x[outer].astype(float), y[outer].astype(float)
    a, b, c = (x + 1j * y)[np.random.default_rng(0).integers(0, len(x), (3, 150))]
    with np.errstate(all="ignore"):  # the circle through three points
        k = (c - a) / (b - a)
        centre = (b - a) * (k - np.abs(k) ** 2) / (2j * k.imag) + a
    radius = np.abs(a - centre)
    away = centre - (w + 1j * h) / 2
    fine = (radius > 0.3 * side) & (radius < 0.75 * side) & (np.abs(away) < 0.25 * side)
    if not fine.any():
        return None
    some = (x + 1j * y)[:: max(1, len(x) // 200)]
    off = np.abs(np.abs(some - centre[fine][:, None]) - radius[fine][:, None])
    best = int((off < 2.5).sum(1).argmax())
    centre, radius = centre[fine][best], radius[fine][best]
    for near in (4.0, 3.0):
        on = np.abs(np.abs(x + 1j * y - centre) - radius) < near
        if on.sum() < side / 3:
            return None
        system = np.stack([x[on], y[on], np.ones(on.sum())], 1)
        (p, q, k), *_ = np.linalg.lstsq(system, x[on] ** 2 + y[on] ** 2, rcond=None)
        centre = (p + 1j * q) / 2
        radius = np.sqrt(max(k + abs(centre) ** 2, 1.0))
    return _trace_circle(mask, centre, radius)


def _dashes(mask: np.ndarray, circle: Line) -> list[Line]:
    """Return the dashed lines through the middle of a circle, upright, level and diagonal."""
    theta = np.radians(np.arange(0, 180, 45)[:, None] + np.array([-3, 0, 3])).ravel() % np.pi
    x, y = circle.centre.real, circle.centre.imag
    lines = _trace(mask, x * np.cos(theta) + y * np.sin(theta), theta)
    return [line for line in lines if line.present.mean() < 0.9]


def _outside(circle: Line, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels (h,w) uint8 that are not within a circle."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    away = np.hypot(x - circle.centre.real, y - circle.centre.imag)
    return (away > circle.radius).view(np.uint8)


def _trace_circle(mask: np.ndarray, centre: complex, radius: float) -> Line | None:
    """Follow thin ink along a circle; None if too little of it is there."""
    h, w = mask.shape
    along = np.exp(1j * np.arange(0, 2 * np.pi, 1 / radius))
    o = np.arange(-4, 5)
    at = centre + along[:, None] * (radius + o)
    inside = (
        (at[:, 4].real > 0)
        & (at[:, 4].real < w - 1)
        & (at[:, 4].imag > 0)
        & (at[:, 4].imag < h - 1)
    )
    if inside.mean() < 0.6:
        return None
    at = at[inside]
    ink = mask[
        np.rint(at.imag).astype(int).clip(0, h - 1), np.rint(at.real).astype(int).clip(0, w - 1)
    ]
    present = ink[:, 1:8].any(1)
    if present.mean() < 0.2:
        return None
    amount = ink.sum(1)
    typical = float(np.percentile(amount[present], 40))
    solo = present & (amount <= 1.4 * typical + 1)
    middle = np.where(solo, (ink * o).sum(1) / np.maximum(amount, 1), 0)
    fine = min(1.6, 0.023 * radius)
    exact = (solo & (np.abs(middle) < fine)).mean()
    # Strokes that happen to lie near a circle lie one or two pixels off it.
    rough = np.sqrt(np.mean(middle[solo] ** 2)) if solo.any() else np.inf
    if typical > 6 or not (exact > 0.55 or (exact > 0.2 and rough < 0.7 * fine)):
        return None
    path = at[:, 4] + along[inside] * middle
    return Line(path.real, path.imag, typical, present, solo, 0.0, centre, radius)


# Erasing ----------------------------------------------------------------------------------------


def erase(mask: np.ndarray, lines: list[Line]) -> np.ndarray:
    """Return the pixels (h,w) uint8 that belong to lines alone: bands without crossing strokes."""
    bands = np.zeros_like(mask)
    for line in lines:
        _draw(bands, line, np.ones(len(line.x), bool))
    strokes = mask & ~bands & 1
    erased = np.zeros_like(mask)
    for line in lines:
        _draw(erased, line, ~(_crossed(strokes, line) | _along(line)))
    return erased


def _along(line: Line) -> np.ndarray:
    """Tell where a stroke runs along a dashed line: much longer than a dash."""
    along = np.zeros(len(line.x), bool)
    if line.present.mean() < 0.9 and not line.closed:
        stretches = _stretches(line.present)
        long = np.diff(stretches, axis=1)[:, 0] > 1.7 * _usual(line.present) + 2
        for a, b in stretches[long]:
            along[a:b] = True
    return along


def _crossed(strokes: np.ndarray, line: Line) -> np.ndarray:
    """Tell at which steps (T,) ink goes on at both sides of a line."""
    h, w = strokes.shape
    dx, dy = np.gradient(line.x), np.gradient(line.y)
    length = np.hypot(dx, dy) + 1e-6
    o = line.width / 2 + np.array([1.5, 2.5])
    o = np.concatenate([o, -o])
    px = np.rint(line.x + np.multiply.outer(o, dy / length)).astype(int)
    py = np.rint(line.y - np.multiply.outer(o, dx / length)).astype(int)
    seen = strokes[py.clip(0, h - 1), px.clip(0, w - 1)]
    seen = seen & ((px >= 0) & (px < w) & (py >= 0) & (py < h))
    step = max(1.0, line.length / len(line.x)) if not line.closed else 1.0
    grow = np.ones(2 * round((line.width / 2 + 1) / step) + 1)
    both = [np.convolve(one, grow, "same") > 0.5 for one in (seen[0] | seen[1], seen[2] | seen[3])]
    return both[0] & both[1]


def _draw(image: np.ndarray, line: Line, where: np.ndarray) -> None:
    """Draw the band of a line at the steps that are marked in `where`."""
    points = np.rint(np.stack([line.x, line.y], 1) * 16).astype(np.int32)
    jump = np.flatnonzero(np.abs(np.diff(points, axis=0)).max(1) > 80)
    if len(jump):  # a circle that leaves the picture
        where = where.copy()
        where[jump] = False
    parts = [points[a:b] for a, b in _stretches(where)]
    cv2.polylines(image, parts, False, 1, max(1, round(line.width + 2)), shift=4)


# Pieces -----------------------------------------------------------------------------------------


def _choose(
    mask: np.ndarray, ink: np.ndarray, bands: np.ndarray | None, outside: np.ndarray | None = None
) -> tuple[np.ndarray, list[Mark], bool]:
    """Return the pieces (h,w) uint8 of the character in the middle, the others, more of them."""
    h, w = mask.shape
    side = max(h, w)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 3:
        return mask, [], False
    x0, y0, width, height, area = stats[1:].T.astype(float)
    x1, y1 = x0 + width, y0 + height
    pieces = labels.ravel()
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    pen = np.maximum(4 * np.bincount(pieces, depth.ravel(), count)[1:] / area - 2, 1)
    dark = np.bincount(pieces, ink.ravel(), count)[1:] / area
    touching, cut = _cut(labels, ink, count)
    middle = np.outer(*(np.exp(-((np.linspace(-2, 2, n)) ** 2)) for n in (h, w)))
    weight = np.bincount(pieces, middle.ravel(), count)[1:] * np.where(touching, 0.3, 1)
    seed = int(weight.argmax())
    dot = pen[seed] ** 2
    speck = area < 0.3 * dot
    if bands is not None or (area < 0.6 * dot).sum() > 4:
        speck = area < 0.6 * dot
    if bands is not None:
        near = cv2.dilate(bands, np.ones((5, 5), np.uint8))
        left_over = np.bincount(pieces, near.ravel(), count)[1:] > 0.6 * area
        speck |= (pen < 0.55 * pen[seed]) & (dark < 0.75 * dark[seed])
        speck |= (pen < 0.8 * pen[seed]) & left_over
        alike = (pen > 0.8 * pen[seed]) & (dark > 0.8 * dark[seed]) & (area >= 4 * dot)
    if outside is not None:
        speck |= np.bincount(pieces, outside.ravel(), count)[1:] > 0.6 * area
    alone = (
        bands is None and not touching.any()
    )  # nothing says that there is more than one character
    group = np.zeros(count - 1, bool)
    group[seed] = True
    # On lined paper dashes must not lead from one to the next: small pieces join last.
    rival = np.full(count - 1, np.inf)  # how far the next piece is that the border cuts
    if cut.any():
        aside = [
            np.maximum(0, np.maximum(a[:, None] - b[cut], a[cut] - b[:, None]))
            for a, b in ((x0, x1), (y0, y1))
        ]
        rival = np.where(touching, np.inf, np.hypot(*aside).min(1))
    rounds = [~speck & (area >= 4 * dot), ~speck] if bands is not None else [~speck]
    for allowed in rounds:
        reach = 0.07
        if bands is not None and allowed is rounds[0]:
            reach = np.where(alike, 0.17, 0.12)
        while True:
            a0, b0, a1, b1 = x0[group].min(), y0[group].min(), x1[group].max(), y1[group].max()
            dx = np.maximum(0, np.maximum(x0 - a1, a0 - x1))
            dy = np.maximum(0, np.maximum(y0 - b1, b0 - y1))
            shared = np.maximum(0, np.minimum(x1, a1) - np.maximum(x0, a0)) * np.maximum(
                0, np.minimum(y1, b1) - np.maximum(y0, b0)
            )
            gap = np.hypot(dx, dy)
            within = shared > 0.5 * width * height
            if bands is not None:
                near = np.where(touching, within, gap <= reach * side)
            else:
                far = side if alone else max(0.25 * max(a1 - a0, b1 - b0), 0.12 * side)
                near = np.where(cut, within | (gap < 0.02 * side), gap <= far)
                near &= ~touching | cut | (gap <= 0.06 * side)
                near &= gap <= rival
            grown = group | (near & allowed)
            if len(rounds) == 2 and allowed is rounds[1]:
                group = grown
                break
            if (grown == group).all():
                break
            group = grown
    keep = np.concatenate([[False], group])[labels].astype(np.uint8)
    marks = [
        Mark("speck" if speck[i] else "piece", _box(x0[i], y0[i], x1[i] - 1, y1[i] - 1))
        for i in np.flatnonzero(~group)
    ]
    others = ~group & ~speck & ~touching
    return keep, marks, bool(area[others].sum() > 0.5 * area[group].sum())


def _cut(labels: np.ndarray, ink: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tell which pieces (count - 1,) touch the border, and which of them it certainly cuts.

    A stroke that only just reaches the border of a tight crop has its faint edge there; a stroke
    that goes on is as strong there as a little further inside.
    """
    edge = inner = 0
    for turn in range(4):
        here, strength = np.rot90(labels, turn), np.rot90(ink, turn)
        touching = np.bincount(here[0], strength[0], count) + np.bincount(
            here[1], strength[1], count
        )
        edge = edge + np.bincount(here[0], strength[0], count)
        inner = inner + np.bincount(here[3], strength[3], count) * (touching > 0)
    height, width = labels.shape
    touching = np.zeros((2, 4, count), bool)
    for rim, deep in zip(touching, (2, 3), strict=True):
        sides = (labels[:deep], labels[-deep:], labels[:, :deep], labels[:, -deep:])
        for found, part in zip(rim, sides, strict=True):
            found[part.ravel()] = True
    # A neighbour's strokes may end just inside of the border; those of a tight crop do all around.
    wide = touching[1, :, 1:].any(1).sum() == 1
    touching = touching[int(wide)].any(0)
    return touching[1:], (touching & (edge >= 0.6 * inner))[1:]
