"""Synthetic handwriting: draw Chinese characters as bitmaps like those of CASIA-HWDB.

    writer = Writer.draw(seed=1)                      # a style: slant, pen, joins, variation
    bitmap = render("永", writer, np.random.default_rng(2))          # (h, w) uint8, 255 = paper

The steps from a character to a picture:

template   strokes as printed, as a real writer wrote them, or the skeleton of a font's glyph
pose       strokes and components moved, turned and stretched; a smooth warp; the writer's slant
path       strokes joined, corners rounded, pen width along the path
field      for each pixel, how far it lies inside the ink (px)
ink        soft edges, grain, grey levels, tight box
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import cv2
import numpy as np

from synthesis.fonts import Fonts
from synthesis.templates import GAP, STEP, Template, box, stroke_data, stroke_template, symbols
from synthesis.trajectories import hand_template

HARD = (0.6, 1.5)  # range from which the variation of a writer is drawn
# Fitted to real pen trajectories, per kind of piece (see templates.KINDS).
OF_KIND = np.array([
    [-0.08, 0.06, 0.02, 0.0, 0.0, 0.1, 0.0],  # mean turn, rad, > 0 is clockwise
    [1.2, 1.1, 2.0, 2.4, 4.2, 1.8, 0.4],  # its sd, in units of the writer's `turn`
    [0.0, 0.02, 0.0, 0.0, 0.0, -0.1, 0.0],  # mean log length
    [1.9, 1.6, 3.3, 2.8, 5.0, 2.0, 0.4],  # its sd, in units of the writer's `stretch`
    [0.0, 0.02, 0.02, 0.0, 0.0, 0.0, 0.0],  # mean bow
    [1.3, 1.3, 1.8, 2.0, 2.5, 1.3, 0.0],  # its sd, in units of the writer's `bow_spread`
]).T.copy()  # fmt: skip
MOST = 1024  # px; upper bound of a character's sides
DENSE = 0.45  # share of ink beyond which a symbol keeps a rim of paper, as a dot fills its box
GAP_INDEX = np.arange(1, GAP + 1)
GAP_PLACE = GAP_INDEX / (GAP + 1)  # position of the points between two strokes, 0..1


class Writer(SimpleNamespace):
    """A writer's style, see `draw`; lengths in em unless noted, angles in radians."""

    @classmethod
    def draw(
        cls,
        seed: int | np.random.Generator,
        hard: float = 1.0,
        neat: float = 0.0,
        hands: list[str] | None = None,
        **pens: float,
    ) -> Writer:
        """Draw a style; `hard` scales all variation: 0.6 is a careful hand and 1.5 a wild one.

        `neat` is the probability of strokes as straight as in print. The writer follows one of the
        trajectory files `hands`, if there are any. `pens` are arguments of `draw_pen`.
        """
        rng = np.random.default_rng(seed)
        normal, uniform = rng.normal, rng.uniform
        straight = bool(neat and rng.random() < neat)
        if straight:
            hard *= uniform(0.1, 0.4)
        style = cls(
            unsteady_size=hard * uniform(0.03, 0.09),  # log sd of the size, over characters
            aspect=0.84 * np.exp(normal(0, 0.1 * hard)),  # width / height of the em box
            unsteady_aspect=hard * uniform(0.05, 0.14),  # log sd of the aspect, over characters
            haste=uniform(0.1, 0.3),  # log sd of the variation, over characters
            slant=normal(0.02, 0.075 * hard),  # x shift per em of height, > 0 leans right
            rise=float(np.clip(normal(0.045, 0.06 * hard), -0.1, 0.35)),  # y shift per em of width
            rotation=normal(0, 0.035 * hard),
            # sd of the low-pass filter along the pen's path
            smoothing=hard * float(np.clip(rng.gamma(2.2, 0.012), 0.002, 0.075)),
            # log odds that the pen stays down between strokes, relative to the average hand
            joining=float(normal(0.6 * hard - 1.1, 1.2)),
            tails=float(rng.beta(0.8, 2.0)),  # probability of an unfinished join
            shift=hard * (0.011 * np.exp(normal(0, 0.35))),  # sd of a stroke's position
            turn=hard * (0.03 * np.exp(normal(0, 0.35))),  # sd of a stroke's direction
            stretch=hard * uniform(0.02, 0.06),  # log sd of a stroke's length
            bow=normal(0, 0.025 * hard),  # mean curvature of strokes
            bow_spread=hard * uniform(0.015, 0.05),
            component_shift=hard * uniform(0.01, 0.03),  # sd
            component_stretch=hard * uniform(0.03, 0.08),  # log sd
            warp=hard * uniform(0.005, 0.024),  # sd of the smooth deformation
            brush=uniform(0, 0.9),  # share of a font glyph's own stroke width
            cut=float(uniform(190, 254) if rng.random() < 0.25 else 254),  # paper from this grey on
            straight=straight,  # drawn from straight templates
            hand=hands[rng.integers(len(hands))] if hands else "",  # trajectory file
            **draw_pen(rng, **pens),
        )
        if straight:
            style.rise, style.smoothing, style.joining, style.tails = 0.0, 0.0, -6.0, 0.0
        elif style.hand:  # a real trajectory is joined, bent and slanted already
            style.joining -= 3
            style.tails *= 0.3
            style.turn *= 0.5
            style.stretch *= 0.5
            style.rise *= 0.5
            style.smoothing *= 0.4
            style.aspect = np.sqrt(style.aspect)
        return style


def draw_pen(
    rng: np.random.Generator, small: float = 0.0, coarse: float = 0.0, pens: float = 0.0
) -> dict[str, float]:
    """Return the fields of a `Writer` that describe the size of the writing and the pen.

    The arguments are probabilities. `small`: 16 to 52 px with a thin pen. `coarse`: drawn with a
    mouse or on a tablet, 28 to 54 px, pure black and white, pen of 1.5 to 16 % of the height.
    `pens`: a pen of 1 to 14 % of the height instead of HWDB's 3 to 8 %.
    """
    uniform = rng.uniform
    if coarse and rng.random() < coarse:
        em = uniform(28, 54)
        pen = max(1.6, em * float(np.exp(uniform(np.log(0.015), np.log(0.16)))))
        even = {"lightness": 1.0, "pressure": 0.0, "start": 1.0, "end": 1.0}
        return even | {"em": em, "pen": pen, "edge": 1e-9, "ink": 0.0, "grain": 0.0}
    em = float(np.clip(68 * np.exp(rng.normal(0, 0.15)), 45, 120))
    pen = em * float(np.clip(0.05 * np.exp(rng.normal(0, 0.16)), 0.033, 0.08))
    edge = max(1.3, pen * uniform(0.4, 0.9))
    if small and rng.random() < small:
        em, pen, edge = uniform(16, 52), uniform(1.1, 2.2), uniform(1.0, 1.7)
    elif pens and rng.random() < pens:
        em = uniform(70, 130)
        pen = em * float(np.exp(uniform(np.log(0.01), np.log(0.14))))
        edge = max(1.0, pen * uniform(0.05, 0.9))
    return {
        "em": em,  # px
        "pen": pen,  # px
        "edge": edge,  # px from paper to full ink
        "ink": uniform(0, 90),  # grey value of full ink
        "grain": uniform(4, 22),  # sd of the grey values inside the ink
        "lightness": uniform(0.25, 0.8),  # pen width of joins, as a share of the full width
        "pressure": uniform(0.05, 0.22),  # amplitude of the pen width's waves
        "start": uniform(0.55, 1.15),  # pen width at the start of a run of the pen
        "end": uniform(0.3, 1.0),  # and at its end
    }


def render(
    character: str, writer: Writer, rng: np.random.Generator, fonts: Fonts | None = None
) -> np.ndarray:
    """Draw one character by a writer: a bitmap (h, w) uint8, 255 = paper, cropped to its ink.

    The template comes from the writer's trajectories, else with probability `fonts.share` from
    `fonts` (not for neat writers), else from the stroke data. Raises ValueError for a character
    without a template.
    """
    symbol = character in symbols()
    if symbol:  # written part by part
        changes = {"joining": writer.joining - 2.5, "tails": 0.3 * writer.tails}
        writer = Writer(**vars(writer) | changes)
    template = choose_template(character, writer, rng, fonts)
    em = writer.em * np.exp(writer.unsteady_size * rng.standard_normal())
    points = pose(template, writer, rng) * em
    pen = min(writer.pen * np.exp(0.06 * rng.standard_normal()), max(0.17 * em, 1.1))
    if template.radius is None:
        points, width = trace(template, points, em, writer, rng)
        radius = width * (pen / 2)
    else:
        brush = writer.brush * rng.uniform(0.5, 1)
        radius = np.maximum((1 - brush) * pen / 2 + brush * em * template.radius, 0.8)
    bitmap = ink(field(points, radius, writer.edge / 2 + 1), writer, rng)
    if symbol and (bitmap < 255).mean() > DENSE:
        bitmap = np.pad(bitmap, 1, constant_values=255)
    return bitmap


def choose_template(
    character: str, writer: Writer, rng: np.random.Generator, fonts: Fonts | None
) -> Template:
    """Return the template that a writer follows for a character; see `render`."""
    template = None
    known = character in stroke_data() or character in symbols()
    if writer.hand:
        template = hand_template(writer.hand, character, rng)
    elif fonts is not None and not (known and writer.straight) and rng.random() < fonts.share:
        template = fonts.template(character, rng)
    if template is None and fonts is not None and not known:
        template = fonts.template(character, rng)
    if template is None:
        variants = len(symbols().get(character, [0]))
        template = stroke_template(character, int(rng.integers(variants)), writer.straight)
    return template


# Pose -------------------------------------------------------------------------------------------


def pose(template: Template, writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Distort strokes, components and the whole character; returns points (N,) complex in em."""
    haste = np.exp(writer.haste * min(max(rng.standard_normal(), -2.0), 2.0))
    loose = haste if template.radius is None else 0.4  # parts of a glyph are components
    centre = template.centre + (loose * writer.shift) * complex_normal(rng, template.centre.shape)
    local = bend(template, writer, haste, rng)

    group = groups_of(template, rng)
    number = np.bincount(group)
    a, b, c = complex_normal(rng, (3, len(number)))
    a = 1 + haste * writer.component_stretch * 0.7 * (a.real + 0.3j * a.imag)
    b = haste * writer.component_stretch * 0.7 * (b.real + 0.6j * b.imag)
    middle = np.bincount(group, centre.real) + 1j * np.bincount(group, centre.imag)
    middle /= np.maximum(number, 1)
    from_middle = centre - middle[group]
    home = (middle + haste * writer.component_shift * c)[group]
    home += a[group] * from_middle + b[group] * from_middle.conj()

    moved = group[template.owner]  # (N,) group of each point; a z + b conj(z) + c is affine
    placed = a[moved] * local + b[moved] * local.conj() + home[template.owner]
    # A smooth warp: plane waves of up to 1.4 periods per em; more of them for stiff font glyphs.
    at_x, at_y = template.points.real, template.points.imag
    for _ in range(2 if template.radius is None else 4):
        chance = rng.random(3)
        across, down = (chance[:2] - 0.5) * (5.6 * np.pi)
        wave = np.sin(across * at_x + (down * at_y + 2 * np.pi * chance[2]))
        placed += writer.warp * complex_normal(rng, ()) * wave

    x, y = placed.real, placed.imag
    z = rng.standard_normal(2)
    angle = writer.rotation + 0.02 * z[0]
    wide = np.sqrt(writer.aspect * np.exp(writer.unsteady_aspect * z[1]))
    y -= writer.rise * x
    x -= writer.slant * y
    posed = (np.cos(angle) * wide) * x - (np.sin(angle) * wide) * y
    return posed + 1j * ((np.sin(angle) / wide) * x + (np.cos(angle) / wide) * y)


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw complex numbers whose real and imaginary parts are standard normal."""
    return rng.standard_normal((*shape, 2)).view(complex)[..., 0]


def bend(template: Template, writer: Writer, haste: float, rng: np.random.Generator) -> np.ndarray:
    """Turn, stretch and bend the straight pieces; returns points (N,) relative to stroke means.

    The steps between points are multiplied by exp(length + i angle) and summed up again, so that
    the pieces of a stroke stay connected.
    """
    mean_turn, turn, mean_length, length, mean_bow, bow = OF_KIND[template.kind].T
    z = rng.standard_normal((3, len(turn)))
    whole = complex_normal(rng, template.centre.shape)[template.stroke]
    turn = mean_turn + (haste * writer.turn) * turn * (0.8 * z[0] + 0.6 * whole.real)
    length = (haste * writer.stretch) * length * (0.8 * z[1] + 0.6 * whole.imag)
    length = np.exp(np.minimum(np.maximum(length, -1.2), 0.8) + mean_length)
    if template.radius is not None:
        factor = length * np.exp(1j * turn)
        return factor[template.owner] * (template.points - template.centre[template.owner])
    bow = 8 * (writer.bow + mean_bow + (haste * writer.bow_spread) * bow * z[2])
    angle = turn[template.piece] + bow[template.piece] * template.along
    factor = length[template.piece] * (np.cos(angle) + 1j * np.sin(angle))
    points = np.cumsum(np.diff(template.points, prepend=template.points[0]) * factor)
    return points - template.stroke_means(points)[template.owner]


def groups_of(template: Template, rng: np.random.Generator) -> np.ndarray:
    """Group strokes (n,) that move together: by radical, or by cuts in the stroke order."""
    count = len(template.radical)
    if count < 4:
        return np.zeros(count, np.int64)
    if 0 < template.radical.sum() < count and rng.random() < 0.7:
        return template.radical.astype(np.int64)
    cuts = rng.integers(1, count, 2 if count > 8 else 1)
    return (np.arange(count)[:, None] >= cuts).sum(axis=1)


# Path -------------------------------------------------------------------------------------------


def trace(
    template: Template, points: np.ndarray, em: float, writer: Writer, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Join and round strokes: returns the pen's path (M,) in px, at most a pixel apart, and width.

    `points` (N,) are the posed points of a stroke template in px, which are overwritten; a width
    (M,) of 1 is the full pen.
    """
    down, width = np.ones(len(points), bool), np.ones(len(points))
    leave = points[template.last[:-1]]
    way = points[template.first[1:]] - leave
    drawn = drawn_share(way / em, template.radical, writer, rng)[:, None]
    arch = 0.12j * rng.standard_normal((len(way), 1)) * np.sin(np.pi * GAP_PLACE)
    gap = template.last[:-1, None] + GAP_INDEX  # (n - 1, GAP)
    points[gap] = leave[:, None] + way[:, None] * (GAP_PLACE + arch)
    down[gap] = drawn >= GAP_PLACE
    width[gap] = writer.lightness * np.where(drawn < 1, 1 - 0.7 * GAP_PLACE / drawn, 1)
    link = down[1:] & down[:-1]  # (N - 1,)
    # A Gaussian low-pass filter as diffusion, which needs no loop over the runs; their ends stay.
    sigma = writer.smoothing * np.exp(0.25 * rng.standard_normal()) / STEP  # points
    rounds = int(np.ceil(sigma**2))
    inner = (link[1:] & link[:-1]) * (sigma**2 / (2 * max(rounds, 1)))
    for _ in range(rounds):
        points[1:-1] += inner * (points[:-2] + points[2:] - 2 * points[1:-1])
    wave = rng.uniform(0.12, 0.35) * np.arange(len(points)) + rng.uniform(0, 2 * np.pi)
    width *= taper(link, writer) * (1 + writer.pressure * np.sin(wave))
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(points)) * link)])
    at = np.linspace(0, along[-1], int(along[-1]) + 2)
    return np.interp(at, along, points), np.maximum(np.interp(at, along, width), 0.42)


def drawn_share(
    way: np.ndarray, radical: np.ndarray, writer: Writer, rng: np.random.Generator
) -> np.ndarray:
    """Return which share (n - 1,) of the way between strokes is drawn: 1 for joins, less for tails.

    `way` (n - 1,) complex in em; `radical` (n,) bool, at whose border the pen is lifted more often.
    A logistic regression on pen trajectories of 84 people.
    """
    x, y = way.real, way.imag
    far = np.maximum(-3.5 * y, 0.3 * y) + np.maximum(-4.5 * x, 3 * x)
    border = radical[1:] != radical[:-1]
    join = 1 / (1 + np.exp(far + 0.55 * border - 1.3 - writer.joining))
    chance = rng.random((2, len(way)))
    tail = (chance[1] < writer.tails / 2) & (np.abs(way) < 0.7)
    share = np.where(tail, 0.15 + 0.6 * chance[1], 0.01)
    return np.where(chance[0] < join, 1.0, share)


def taper(link: np.ndarray, writer: Writer) -> np.ndarray:
    """Return the pen width (N,) as the pen lands at the start and leaves at the end of a run."""
    count = len(link) + 1
    index = np.arange(count)
    bounds = np.concatenate([[0], np.flatnonzero(~link) + 1, [count]])
    length = np.diff(bounds)
    since = index - np.repeat(bounds[:-1], length)
    until = np.repeat(bounds[1:] - 1, length) - index
    landing = np.minimum(1, writer.start + (1 - writer.start) / 4 * since)
    return landing * np.minimum(1, writer.end + (1 - writer.end) / 6 * until)


# Ink --------------------------------------------------------------------------------------------


def field(points: np.ndarray, radius: np.ndarray, margin: float) -> np.ndarray:
    """Return how far inside the ink each pixel lies, (H, W) float32 in px, negative on paper.

    `points` (M,) in px, at most about a pixel apart; `radius` (M,) in px of the ink around each. A
    distance transform finds the nearest point of every pixel; its exact distance is then computed.
    """
    low, high = box(points)
    rim = (float(radius.max()) + margin) * (1 + 1j)
    points = (points - low + rim).astype(np.complex64)
    size = high - low + 2 * rim
    w, h = int(size.real) + 2, int(size.imag) + 2
    cell = np.rint(points.imag).astype(np.int32) * w + np.rint(points.real).astype(np.int32)
    apart = np.ones(h * w, np.uint8)  # 0 on the path
    apart[cell] = 0
    _, label = cv2.distanceTransformWithLabels(
        apart.reshape(h, w), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = label.reshape(-1)[cell]
    nearest = np.zeros(labels.max() + 1, np.int64)  # point of each label
    nearest[labels] = np.arange(len(cell))
    point = points[nearest][label]
    x, y = np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)[:, None]
    away = np.sqrt((point.real - x) ** 2 + (point.imag - y) ** 2)
    return radius.astype(np.float32)[nearest][label] - away


@functools.cache
def grain_texture() -> np.ndarray:
    """Return a fixed texture (MOST, MOST) float32 with unit variance: grain and small blotches."""
    white = np.random.default_rng(0).standard_normal((MOST, MOST)).astype(np.float32)
    texture = 0.35 * white + 1.8 * cv2.GaussianBlur(white, (0, 0), 1.0)
    texture += 0.5 * cv2.resize(white[:72, :72], (MOST, MOST), interpolation=cv2.INTER_LINEAR)
    return texture / texture.std()


def ink(inside: np.ndarray, writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Turn a field (H, W) into a bitmap (h, w) uint8: paper exactly 255, black near 0, tight box.

    HWDB's images are made alike: background removed, contrast stretched, cropped.
    """
    h, w = inside.shape
    cover = np.minimum(np.maximum(inside * (1 / writer.edge) + 0.5, 0), 1)
    top, left = rng.integers(0, MOST - h), rng.integers(0, MOST - w)
    grey = 255 - cover * (255 - writer.ink)
    texture = grain_texture()[top : top + h, left : left + w]
    grey += texture * (writer.grain * np.minimum(1, 2 * cover))
    inked = (cover > 0.05) & (grey < writer.cut)
    if not inked.any():
        inked = cover >= cover.max()
    left, top, w, h = cv2.boundingRect(inked.view(np.uint8))
    crop = np.s_[top : top + h, left : left + w]
    grey, inked = grey[crop], inked[crop]
    darkest = writer.ink - 1.3 * writer.grain
    grey = (grey - darkest) * (255 / (255 - darkest))
    return np.where(inked, np.minimum(np.maximum(grey, 0), 254), 255).astype(np.uint8)


def drawable(characters: str | list[str], fonts: Fonts | None = None) -> None:
    """Raise ValueError naming the characters that have neither strokes nor a glyph."""
    known = set().union(stroke_data(), symbols(), *(fonts.faces if fonts else ()))
    missing = [c for c in characters if c not in known]
    if missing:
        raise ValueError(f"{len(missing)} characters cannot be drawn: {' '.join(missing[:20])}")
