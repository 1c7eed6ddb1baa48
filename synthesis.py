"""Synthetic handwriting: draw Chinese characters as bitmaps like those of CASIA-HWDB.

    writer = Writer.draw(seed=1)                      # one hand: slant, pen, joins, unsteadiness
    bitmap = render("永", writer, np.random.default_rng(2))          # (h, w) uint8, 255 = paper
    bitmap = render("永", writer, rng, fonts)         # two of five from fonts = Fonts("dir", "永")
    bitmap, label = Source("永和九年", seed=1).draw(7)               # depends on (seed, 7) alone

How a character becomes a picture:

template   its strokes, some components abbreviated, or the skeleton of a glyph (templates.py)
pose       every stroke and component moved, turned, stretched; a smooth warp; the writer's slant
path       hooks dropped, strokes joined by the lifted pen, corners rounded, pen width along the way
field      for every pixel, how far it lies inside the ink (px)
ink        soft edges, grain, grey levels, tight box

numpy and OpenCV only; Pillow where fonts are used. Left out are lines and pages of text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from templates import (
    GAP,
    STEP,
    Fonts,
    Template,
    components,
    parts,
    stroke_data,
    stroke_template,
    symbols,
)

HARD = (0.6, 1.5)  # range from which a writer's unsteadiness is drawn


@dataclass(frozen=True)
class Writer:
    """One writer's style; lengths in em unless noted, angles in radians."""

    em: float  # px in an em
    unsteady_size: float  # log sd of the size from character to character
    aspect: float  # width / height of the em box
    slant: float  # x shift for every em of height: > 0 leans right
    rise: float  # y shift for every em of width: > 0 climbs to the right
    rotation: float
    smoothing: float  # sd of the low-pass along the pen's path
    joining: float  # probability that the pen stays down between two strokes that are close
    reach: float  # distance over which strokes are joined
    tails: float  # probability of an unfinished join
    lightness: float  # pen width of joins, share of the full width
    shift: float  # sd of a stroke's place
    turn: float  # sd of a stroke's direction
    stretch: float  # log sd of a stroke's length
    bow: float  # mean curvature of strokes
    bow_spread: float
    component_shift: float  # sd
    component_stretch: float  # log sd
    warp: float  # sd of the smooth deformation
    hookless: float  # probability that an end hook is left out
    dots: float  # length of dots
    skip: float  # probability that a stroke is left out
    abbreviation: float  # share of the components that are abbreviated
    habits: tuple[float, ...]  # which they are, and how: a number in 0..1 for every component
    pen: float  # px
    pressure: float  # amplitude of the pen width's waves
    start: float  # pen width at the start of a run of the pen
    end: float  # and at its end
    brush: float  # share of a font glyph's own stroke width
    edge: float  # px from paper to full ink
    ink: float  # grey value of full ink
    grain: float  # sd of the grey values inside the ink
    cut: float  # grey value from which on the scan counts as paper

    @classmethod
    def draw(cls, seed: int | np.random.Generator, hard: float = 1.0) -> Writer:
        """Draw a style; `hard` scales every spread, 0.6 is a careful hand and 1.5 a wild one."""
        rng = np.random.default_rng(seed)
        normal, uniform = rng.normal, rng.uniform

        def spread(median: float, log_sd: float) -> float:
            return float(median * np.exp(normal(0, log_sd)))

        em = np.clip(spread(75, 0.2), 45, 140)
        pen = em * np.clip(spread(0.055, 0.2), 0.035, 0.085)
        return cls(
            em=float(em),
            unsteady_size=hard * uniform(0.03, 0.09),
            aspect=spread(0.84, 0.17 * hard),
            slant=normal(0.03, 0.09 * hard),
            rise=float(np.clip(normal(0.11, 0.075 * hard), -0.1, 0.35)),
            rotation=normal(0, 0.035 * hard),
            smoothing=hard * float(np.clip(rng.gamma(2.2, 0.012), 0.002, 0.075)),
            joining=min(1.0, 0.6 + 0.5 * hard) * float(np.clip(rng.beta(0.85, 1.2), 0, 0.97)),
            reach=uniform(0.35, 0.65),
            tails=float(rng.beta(0.8, 2.0)),
            lightness=uniform(0.35, 1.0),
            shift=hard * spread(0.017, 0.35),
            turn=hard * spread(0.065, 0.35),
            stretch=hard * uniform(0.05, 0.16),
            bow=normal(0, 0.025 * hard),
            bow_spread=hard * uniform(0.015, 0.05),
            component_shift=hard * uniform(0.015, 0.05),
            component_stretch=hard * uniform(0.05, 0.14),
            warp=hard * uniform(0.006, 0.03),
            hookless=float(rng.beta(1, 1.5)),
            dots=uniform(0.8, 1.35),
            skip=hard * uniform(0, 0.004),
            abbreviation=min(1.0, 0.5 + 0.5 * hard) * float(rng.beta(0.9, 1.4)),
            habits=tuple(rng.random(64).tolist()),
            pen=float(pen),
            pressure=uniform(0.05, 0.22),
            start=uniform(0.55, 1.15),
            end=uniform(0.3, 1.0),
            brush=uniform(0, 0.7),
            edge=float(max(1.2, pen * uniform(0.4, 0.95))),
            ink=uniform(0, 80),
            grain=uniform(16, 42),
            cut=float(uniform(165, 254) if rng.random() < 0.3 else 254),
        )


def render(
    character: str,
    writer: Writer,
    rng: np.random.Generator,
    fonts: Fonts | None = None,
    font_share: float = 0.4,
) -> np.ndarray:
    """Draw one character in a writer's hand.

    Returns a bitmap (h, w) uint8, 255 = paper, cropped to its ink. With `fonts`, a share of the
    characters is taken from a random font that has them. Raises ValueError for a character of
    which neither strokes nor glyphs are known.
    """
    template = None
    if fonts is not None and rng.random() < font_share:
        template = fonts.template(character, rng)
    if template is None:
        template = stroke_template(character, forms(character, writer, rng))
    em = writer.em * np.exp(writer.unsteady_size * rng.standard_normal())
    points = pose(template, writer, rng) * np.float32(em)
    pen = min(writer.pen * np.exp(0.06 * rng.standard_normal()), 0.075 * em)
    if template.radius is None:
        points, width = trace(template, points, em, writer, rng)
        radius = width * (pen / 2)
    else:
        brush = writer.brush * rng.uniform(0.5, 1)
        radius = np.maximum((1 - brush) * pen / 2 + brush * em * template.radius, 0.8)
    return ink(field(points, radius, writer.edge / 2 + 1), writer, rng)


def forms(character: str, writer: Writer, rng: np.random.Generator) -> tuple[int, ...]:
    """Choose the abbreviations (0 = as printed) of a character's components, mostly by habit."""
    if character in symbols():
        return (int(rng.integers(len(symbols()[character]))),)
    chosen = []
    for _, _, number in parts(character):
        habit = writer.habits[number] if rng.random() < 0.8 else rng.random()
        habit /= max(writer.abbreviation, 1e-6)
        chosen.append(1 + int(habit * len(components()[number].forms)) if habit < 1 else 0)
    return tuple(chosen)


# Pose -------------------------------------------------------------------------------------------


def pose(template: Template, writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Move strokes, components and the whole character as a hand would; (N, 2) float32 in em."""
    count = len(template.length)
    z = rng.standard_normal((6, count))
    loose = 1.0 if template.radius is None else 0.4  # the parts of a glyph are whole components
    angle = loose * writer.turn * z[0]
    scale = np.exp(loose * writer.stretch * z[1])
    dot = template.length < 0.2
    scale[dot] *= writer.dots
    angle[dot] *= 1.8
    moved = template.centre + loose * writer.shift * z[2:4].T
    bow = (writer.bow + writer.bow_spread * z[4]) * template.length

    # One affine map a stroke, times one a component: x -> linear @ (x - centre) + offset.
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)  # (n, 2, 2)
    group = groups_of(template, rng)
    groups = int(group.max()) + 1
    noise = rng.standard_normal((groups, 6))
    stretch = writer.component_stretch
    parts = np.empty((groups, 2, 2))
    parts[:, [0, 1], [0, 1]] = np.exp(stretch * noise[:, :2])
    parts[:, [0, 1], [1, 0]] = stretch * noise[:, 2:4] * (0.5, 0.4)
    size = np.bincount(group, minlength=groups)[:, None]
    middle = np.stack([np.bincount(group, moved[:, k], groups) for k in (0, 1)], 1) / size
    home = middle + writer.component_shift * noise[:, 4:]
    linear = parts[group] @ linear
    offset = (parts[group] @ (moved - middle[group])[:, :, None])[:, :, 0] + home[group]

    owner = template.owner
    rest = template.points
    local = rest - template.centre[owner]
    local += (template.normal * bow[:, None])[owner] * template.arch[:, None]
    m = linear.reshape(count, 4).T[:, owner]
    placed = np.stack([m[0] * local[:, 0] + m[1] * local[:, 1],
                       m[2] * local[:, 0] + m[3] * local[:, 1]], axis=1)  # fmt: skip
    placed += offset[owner]

    # A smooth warp: plane waves of about one period an em, more and larger for stiff glyphs.
    waves = 2 if template.radius is None else 4
    frequency = rng.uniform(-1.4, 1.4, (2, waves)) * (2 * np.pi)
    phase = rng.uniform(0, 2 * np.pi, waves)
    placed += np.sin(rest @ frequency + phase) @ (writer.warp * rng.standard_normal((waves, 2)))

    turn = writer.rotation + 0.02 * rng.standard_normal()
    wide = np.sqrt(writer.aspect * np.exp(0.07 * rng.standard_normal()))
    lean = np.array([[1, -writer.slant], [0, 1]]) @ np.array([[1, 0], [-writer.rise, 1]])
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (placed @ (np.diag([wide, 1 / wide]) @ spin @ lean).T).astype(np.float32)


def groups_of(template: Template, rng: np.random.Generator) -> np.ndarray:
    """Group strokes that move together: the radical and the rest, or cuts in stroke order."""
    count = len(template.length)
    group = np.zeros(count, np.int64)
    if count < 4:
        return group
    radical = template.radical
    if radical.any() and not radical.all() and rng.random() < 0.7:
        group += radical
    else:
        for cut in rng.integers(1, count, 1 + (count > 8)):
            group[cut:] += 1
    if count > 9 and rng.random() < 0.5:
        group[rng.integers(2, count - 1) :] += 3
    return np.unique(group, return_inverse=True)[1]


# Path -------------------------------------------------------------------------------------------


def trace(
    template: Template, points: np.ndarray, em: float, writer: Writer, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lead the pen along the strokes: points (M, 2) in px, at most a pixel apart, and width (M,).

    `points` (N, 2) are the posed points of a stroke template in px; `width` is 1 for the full pen.
    """
    count = len(template.length)
    chance = rng.random((4, count))
    last = np.where(chance[0] < writer.hookless, template.hook, template.last)
    index = np.arange(len(points))
    points = points[np.minimum(index, last[template.owner])]
    down = np.ones(len(points), bool)
    width = np.ones(len(points))
    if count > 1:
        bridge(template, points, last, em, writer, chance, down, width, rng)
    if count > 4:
        for k in np.flatnonzero(chance[3] < writer.skip):
            down[template.first[k] : template.last[k] + 1] = False
    link = down[1:] & down[:-1]
    smooth(points, link, writer.smoothing * np.exp(0.25 * rng.standard_normal()) / STEP)
    width *= taper(link, writer)
    wave = rng.uniform(0.12, 0.35) * index + rng.uniform(0, 2 * np.pi)
    width *= 1 + writer.pressure * np.sin(wave)

    steps = np.hypot(*np.diff(points, axis=0).T) * link
    along = np.concatenate([[0], np.cumsum(steps)])
    at = np.linspace(0, along[-1], int(along[-1]) + 2)
    dense = np.stack([np.interp(at, along, points[:, k]) for k in (0, 1)], axis=1)
    return dense, np.maximum(np.interp(at, along, width), 0.42)


def bridge(
    template: Template,
    points: np.ndarray,
    last: np.ndarray,
    em: float,
    writer: Writer,
    chance: np.ndarray,
    down: np.ndarray,
    width: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Fill the gaps between strokes in place: the way to the next stroke, and how much is drawn."""
    leave = points[last[:-1]]
    way = points[template.first[1:]] - leave
    distance = np.hypot(*way.T) / em
    near = np.exp(-((distance / writer.reach) ** 2)) + 0.5 * (distance < 0.06)
    joined = chance[1, 1:] < writer.joining * near
    tail = (chance[2, 1:] < writer.tails / 2) & (distance < 0.7)
    drawn = np.where(joined, 1.0, np.where(tail, rng.uniform(0.15, 0.45, len(way)), 0.0))
    t = np.arange(1, GAP + 1, dtype=np.float32) / (GAP + 1)
    gap = template.last[:-1, None] + np.arange(1, GAP + 1)  # (n - 1, GAP)
    bend = 0.12 * rng.standard_normal(len(way))[:, None] * way[:, ::-1] * (-1, 1)
    points[gap] = (
        leave[:, None]
        + way[:, None] * t[:, None]
        + bend[:, None] * np.sin(np.pi * t)[:, None]
    )
    down[gap] = t <= drawn[:, None]
    light = np.where(joined[:, None], 1, 1 - 0.7 * t / np.maximum(drawn, 0.1)[:, None])
    width[gap] = writer.lightness * light


def smooth(points: np.ndarray, link: np.ndarray, sigma: float) -> None:
    """Low-pass the pen's path in place (Gaussian, `sigma` in points); run ends stay where they are.

    Diffusion with fixed ends: the runs need not be taken apart, `link[i]` ties i to i + 1.
    """
    rounds = int(np.ceil(sigma**2))
    inner = (link[1:] & link[:-1])[:, None] * np.float32(sigma**2 / (2 * max(rounds, 1)))
    for _ in range(rounds):
        points[1:-1] += inner * (points[:-2] + points[2:] - 2 * points[1:-1])


def taper(link: np.ndarray, writer: Writer) -> np.ndarray:
    """Return the pen width (N,) as the pen lands at the start of a run and leaves at its end."""
    index = np.arange(len(link) + 1)
    tied = np.concatenate([[False], link])
    since = index - np.maximum.accumulate(np.where(tied, 0, index))
    tied = np.concatenate([[False], link[::-1]])
    until = (index - np.maximum.accumulate(np.where(tied, 0, index)))[::-1]
    landing = np.minimum(1, writer.start + (1 - writer.start) * since / 4)
    return landing * np.minimum(1, writer.end + (1 - writer.end) * until / 6)


# Ink --------------------------------------------------------------------------------------------


def field(points: np.ndarray, radius: np.ndarray, margin: float) -> np.ndarray:
    """Return how far inside the ink each pixel lies, (H, W) float32 px, negative on paper.

    `points` (M, 2) px, at most about a pixel apart; `radius` (M,) px of the ink around each.
    Exact up to `margin` px outside the ink. A distance transform tells every pixel its nearest point; the distance is then taken exactly.
    """
    reach = float(radius.max()) + margin
    points = (points - points.min(axis=0) + reach).astype(np.float32)
    w, h = (points.max(axis=0) + reach + 1).astype(int)
    column, row = np.rint(points.T).astype(np.int32)
    cell = row * w + column
    paper = np.ones(h * w, np.uint8)
    paper[cell] = 0
    point_at = np.empty(h * w, np.int32)
    point_at[cell] = np.arange(len(cell))
    rough, label = cv2.distanceTransformWithLabels(
        paper.reshape(h, w), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    # Labels count the pixels of the path from 1, row by row.
    point_of = np.concatenate([[0], point_at[np.flatnonzero(paper == 0)]])
    near = np.flatnonzero(rough.ravel() < reach)
    nearest = point_of[label.ravel()[near]]
    y, x = np.divmod(near, w)
    offset = points[nearest]
    offset[:, 0] -= x
    offset[:, 1] -= y
    inside = np.full(h * w, -margin, np.float32)
    inside[near] = radius.astype(np.float32)[nearest] - np.hypot(offset[:, 0], offset[:, 1])
    return inside.reshape(h, w)


@functools.cache
def grain_texture() -> np.ndarray:
    """Return a fixed texture (1024, 1024) float32 of unit variance: grain and small blotches."""
    white = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    texture = 0.7 * white + 1.6 * cv2.GaussianBlur(white, (0, 0), 1.0)
    patch = cv2.resize(white[:72, :72], (1024, 1024), interpolation=cv2.INTER_LINEAR)
    texture += 0.5 * patch
    return texture / texture.std()


def ink(inside: np.ndarray, writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Turn a field (H, W) into a bitmap (h, w) uint8: paper exactly 255, darkest ink 0, tight box.

    So are the images of HWDB: background removed, contrast stretched, cropped.
    """
    h, w = inside.shape
    cover = np.clip(inside * (1 / writer.edge) + 0.5, 0, 1)
    texture = grain_texture()
    top, left = rng.integers(0, 1024 - h), rng.integers(0, 1024 - w)
    grey = 255 - cover * (255 - writer.ink)
    grey += texture[top : top + h, left : left + w] * (writer.grain * np.minimum(1, 2 * cover))
    inked = (cover > 0.05) & (grey < writer.cut)
    if not inked.any():
        inked = cover >= cover.max()
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey, inked = grey[box], inked[box]
    darkest = grey[inked].min()
    grey = (grey - darkest) * (255 / (255 - darkest))
    return np.where(inked, np.clip(grey, 0, 254), 255).astype(np.uint8)


# Streams ----------------------------------------------------------------------------------------


class Source:
    """Endless labelled handwriting for training: picture `index` depends on (seed, index) alone."""

    def __init__(
        self,
        classes: Sequence[str],
        seed: int = 0,
        hard: tuple[float, float] = HARD,
        fonts: Fonts | None = None,
        font_share: float = 0.4,
    ):
        self.classes = list(classes)
        self.seed, self.hard, self.fonts, self.font_share = seed, hard, fonts, font_share
        drawable(self.classes, fonts)

    def draw(self, index: int) -> tuple[np.ndarray, int]:
        """Return picture number `index` >= 0: bitmap (h, w) uint8, 255 = paper, and its label.

        Every picture has a writer of its own; every run of len(classes) pictures shows each class
        once, in an order of its own.
        """
        count = len(self.classes)
        epoch, place = divmod(index, count)
        label = int(shuffled(self.seed, epoch, count)[place])
        rng = np.random.default_rng((self.seed, 1, index))
        writer = Writer.draw(rng, rng.uniform(*self.hard))
        bitmap = render(self.classes[label], writer, rng, self.fonts, self.font_share)
        return bitmap, label


@functools.lru_cache(maxsize=8)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order (count,) in which pass number `epoch` shows the classes."""
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def drawable(characters: Sequence[str], fonts: Fonts | None = None) -> None:
    """Raise ValueError naming the characters for which neither strokes nor glyphs are known."""
    known = set(stroke_data()) | set(symbols())
    for face in fonts.faces if fonts else []:
        known |= face.keys()
    missing = [c for c in characters if c not in known]
    if missing:
        raise ValueError(f"{len(missing)} characters cannot be drawn: {' '.join(missing[:20])}")
