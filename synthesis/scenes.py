"""Characters as people photograph them: on grids, lines and in cells, among others, by any light.

    hands = characters(4000, seed=1)                  # bitmaps of many writers to choose from
    picture, *inks = scene(hands, rng)                # (h, w) uint8: any light; ink, 0 = paper

The finder of picture/ learns from them which ink is that of the character in the middle
(training/finder.py). Some are tight crops or stand alone: there all ink is the character's.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from hwdb.characters import LEVEL1
from synthesis.templates import symbols
from synthesis.writer import Writer, render

# Straight, framed or of several parts: what is most easily taken for lines, boxes and neighbours.
HARD_TO_TELL = "一二三十土工王干千八人川小心六口四田回目日白百自国园围圆团因困固图圈囚门间问闭同且"


def characters(count: int, seed: int | np.random.Generator) -> list[np.ndarray]:
    """Return ink (h, w) uint8, 0 = paper, of many characters by as many writers."""
    rng = np.random.default_rng(seed)
    others = list(symbols())
    drawn = []
    for _ in range(count):
        pool = HARD_TO_TELL if rng.random() < 0.25 else others if rng.random() < 0.07 else LEVEL1
        writer = Writer.draw(rng, rng.uniform(0.3, 1.5), small=0.25, coarse=0.1)
        drawn.append(255 - render(pool[rng.integers(len(pool))], writer, rng))
    return drawn


def scene(hands: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw a picture (h, w) uint8; ink of the character, of its neighbours, of all else, alike."""
    ink = _pen(hands[rng.integers(len(hands))], rng)
    if rng.random() < 0.25:
        written = _tight(ink, rng)
        beside, others = np.zeros((2, *written.shape), np.uint8)
    else:
        written, box = _placed(ink, rng)
        beside = np.zeros_like(written)
        others = _surroundings(written.shape, box, hands, rng)
        if rng.random() < 0.4:
            _neighbours(beside, box, hands, rng)
    dark = rng.uniform(0.35, 1)
    lines = dark * rng.uniform(0.25, 0.9) if rng.random() < 0.5 else rng.uniform(0.4, 1)
    page = (1 - np.maximum(written, beside) * (dark / 255)) * (1 - others * (lines / 255))
    return _photographed(page.astype(np.float32), rng), written, beside, others


def _pen(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bring ink to 40 to 200 px, thinner or thicker, wider, coarse or dry at times."""
    scale = rng.uniform(40, 200) / max(ink.shape)
    wide = rng.uniform(0.8, 1.5) if rng.random() < 0.15 else 1.0
    width, height = (max(2, round(side * scale)) for side in (ink.shape[1] * wide, ink.shape[0]))
    way = cv2.INTER_AREA if scale < 1 else rng.choice([cv2.INTER_LINEAR] * 2 + [cv2.INTER_AREA])
    ink = cv2.resize(ink, (width, height), interpolation=int(way))
    if rng.random() < 0.15:
        ink = cv2.dilate(ink, np.ones((3, 3), np.uint8))
    elif rng.random() < 0.15 and scale > 1:
        thin = cv2.erode(ink, np.ones((2, 2), np.uint8))
        ink = thin if thin.sum() > 0.4 * ink.sum() else ink
    if rng.random() < 0.5:
        ink = _apart(ink, rng)
        height, width = ink.shape
    if rng.random() < 0.2:
        grain = 1 + int(rng.integers(1, 4))
        dry = rng.random((height // grain + 1, width // grain + 1), np.float32)
        dry = cv2.resize(dry, (width, height)) < rng.uniform(0.1, 0.4)
        ink = np.where(dry, ink * rng.uniform(0.1, 0.7), ink).astype(np.uint8)
    return ink


def _apart(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move pieces of ink on one side of a cut away from those on the other."""
    across = rng.random() < 0.7
    count, labels, _, centres = cv2.connectedComponentsWithStats((ink > 60).view(np.uint8))
    beyond = centres[:, 1 - across] > rng.uniform(0.2, 0.8) * ink.shape[int(across)]
    beyond[0] = False
    beyond = cv2.dilate(beyond[labels].view(np.uint8), np.ones((5, 5), np.uint8))
    more = int(rng.uniform(0, 0.18) * max(ink.shape))
    shift = [(0, 0), (0, more)] if across else [(0, more), (0, 0)]
    still = np.pad(ink * (1 - beyond), shift)
    return np.maximum(still, np.pad(ink * beyond, [one[::-1] for one in shift]))


def _tight(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave next to no paper around the ink, cut a little off at times; nothing else is there."""
    high, low = rng.choice([0, 0.03, 0.15]), -0.03 * (rng.random() < 0.3)
    top, bottom, left, right = np.rint(rng.uniform(low, high, 4) * max(ink.shape)).astype(int)
    ink = ink[max(0, -top) : len(ink) + min(0, bottom), max(0, -left) :]
    ink = ink[:, : ink.shape[1] + min(0, right)]
    return np.pad(ink, [(max(0, top), max(0, bottom)), (max(0, left), max(0, right))])


def _placed(ink: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """Put ink near the middle of a page; return both page and top, bottom, left, right of it."""
    share = rng.uniform(0.28, 0.9) if rng.random() < 0.85 else rng.uniform(0.13, 0.3)
    side = max(ink.shape) / share
    if side > 400:
        ink = cv2.resize(ink, None, fx=400 / side, fy=400 / side, interpolation=cv2.INTER_AREA)
        side = 400
    sides = np.rint(side * np.exp(np.minimum(rng.normal(0, 0.12, 2), 0.3))).astype(int)
    h, w = np.maximum(sides, np.array(ink.shape) + 4).tolist()
    off = np.clip(rng.normal(0, rng.choice([0.04, 0.1]), 2), -0.22, 0.22) * side
    top, left = ((np.array([h, w]) - ink.shape) / 2 + off).astype(int)
    top = min(max(top, 0), h - ink.shape[0])
    left = min(max(left, 0), w - ink.shape[1])
    page = np.zeros((h, w), np.uint8)
    page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return page, (top, top + ink.shape[0], left, left + ink.shape[1])


def _surroundings(shape, box, hands, rng: np.random.Generator) -> np.ndarray:
    """Draw what stands around a character: ink (h, w) uint8, 0 = paper."""
    layer = np.zeros(shape, np.uint8)
    chance = rng.random(3)
    if chance[0] < 0.72:
        lines = _Lines(layer, box, rng)
        kinds = [lines.practice] * 6 + [lines.ruled] * 3
        kinds += [lines.cell, lines.by_hand, lines.through] * 2 + [lines.squares]
        for _ in range(1 + (rng.random() < 0.15)):
            kinds[rng.integers(len(kinds))]()
    if chance[1] < 0.2:
        _specks(layer, rng)
    if chance[2] < 0.06:  # the back of the page shows through
        back = cv2.flip(hands[rng.integers(len(hands))], 1)
        back = cv2.GaussianBlur(cv2.resize(back, shape[::-1]), (0, 0), 2)
        layer = np.maximum(layer, (back * rng.uniform(0.1, 0.3)).astype(np.uint8))
    return layer


# Lines ------------------------------------------------------------------------------------------


class _Lines:
    """Lines on ink (h, w) uint8 around a character, turned, seen from aside and bent all alike.

    Points are complex px; `box` is top, bottom, left and right of the character.
    """

    def __init__(self, layer: np.ndarray, box: tuple, rng: np.random.Generator) -> None:
        self.layer, self.box, self.rng = layer, box, rng
        self.h, self.w = layer.shape
        self.side = max(layer.shape)
        self.angle = rng.normal(0, 0.012) if rng.random() < 0.7 else rng.uniform(-0.16, 0.16)
        self.tip = rng.normal(0, 0.03, 2) * (rng.random() < 0.5)
        self.bow = rng.normal(0, 0.02, 2) * (rng.random() < 0.3)

    def style(self, side: float) -> dict:
        """Choose how a line is drawn: strength, width in px, dash and gap in px or none."""
        rng, dash = self.rng, None
        width = 1 + int(rng.gamma(1.2, 0.006) * side) if rng.random() < 0.75 else 1
        if rng.random() < 0.4:
            dash = side * rng.uniform(0.012, 0.1), side * rng.uniform(0.012, 0.07)
        return {"strength": int(rng.uniform(50, 256)), "width": min(width, 9), "dash": dash}

    def draw(self, ends, strength: int, width: int, dash=None, shake: float = 0.0) -> None:
        """Draw the polyline through `ends` (N,), solid or dashed, with a shaking hand."""
        ends, rng = np.asarray(ends, complex), self.rng
        along = np.concatenate([[0], np.cumsum(np.abs(np.diff(ends)))])
        if dash:
            starts = np.arange(-rng.random() * sum(dash), along[-1], sum(dash))
            at = np.clip(np.stack([starts, starts + dash[0]], 1), 0, along[-1])
        else:
            at = np.linspace(0, along[-1], max(25, len(ends)))[None]
        points = np.interp(at, along, ends)
        if shake:
            way = np.cumsum(rng.standard_normal((2, at.shape[1])), 1) * shake
            points = points + way[0] + 1j * way[1]
        middle = (self.w + 1j * self.h) / 2
        z = (points - middle) / self.side * np.exp(1j * self.angle)
        z = z / (1 + self.tip[0] * z.real + self.tip[1] * z.imag)
        z = middle + self.side * (z + self.bow[0] * z.imag**2 + 1j * self.bow[1] * z.real**2)
        points = np.rint(np.stack([z.real, z.imag], -1) * 16).astype(np.int32)
        cv2.polylines(self.layer, list(points), False, strength, width, cv2.LINE_AA, 4)

    def level(self, y: float, **style) -> None:
        """Draw a level line, from border to border."""
        self.draw([1j * y - 2 * self.side, 1j * y + 2 * self.side], **style)

    def upright(self, x: float, **style) -> None:
        """Draw an upright line, from border to border."""
        self.draw([x - 2j * self.side, x + 2j * self.side], **style)

    def practice(self) -> None:
        """Draw a practice cell around the character: frame, cross, diagonals, circle."""
        rng, (top, bottom, left, right) = self.rng, self.box
        own = max(bottom - top, right - left)
        side = own * rng.uniform(1.1, rng.choice([1.6, 2.2, 3.5]))
        middle = (left + right + 1j * (top + bottom)) / 2
        middle += (0.05 * side + 0.25 * (side - own)) * complex(*rng.normal(0, 1, 2))
        a, b = middle - side * (0.5 + 0.5j), middle + side * (0.5 + 0.5j)
        c, d = complex(b.real, a.imag), complex(a.real, b.imag)
        chance = rng.random(6)
        style = self.style(side) | {"dash": None}
        if chance[0] < 0.85:
            self.draw([a, c, b, d, a], **style)
            if chance[1] < 0.4:  # the cells beside it
                far, gap = 2 * self.side, side * rng.choice([0, 0, rng.uniform(0.02, 0.2)])
                for step, corner in ((-1, a), (1, b)):
                    for y in (a.imag, b.imag):
                        here = complex(corner.real + step * gap, y)
                        self.draw([here, here + step * far], **style)
                    for x in (a.real, b.real):
                        if rng.random() < 0.7:
                            here = complex(x, corner.imag + step * gap)
                            self.draw([here, here + 1j * step * far], **style)
        inner = self.style(side)
        if chance[2] < 0.75:
            if chance[2] < 0.65:
                self.draw([(a + c) / 2, (b + d) / 2], **inner)
            self.draw([(a + d) / 2, (b + c) / 2], **inner)
        if chance[3] < 0.45:
            reach = side * rng.choice([0.5, 0.5, 0.35, 0.7])
            for turn in (1 + 1j, 1 - 1j):
                self.draw([middle - reach * turn, middle + reach * turn], **inner)
        if chance[4] < 0.3:
            circle = side * rng.uniform(0.33, 0.5) * np.exp(1j * np.linspace(0, 2 * np.pi, 90))
            style = self.style(side) if chance[5] < 0.3 else style
            self.draw(middle + circle, **style | {"dash": None})
            if chance[5] < 0.15:
                self.draw(middle + circle * rng.uniform(0.5, 0.9), **style)

    def ruled(self) -> None:
        """Draw level (seldom upright) lines anywhere, each in a style of its own or all alike."""
        rng, (top, bottom, left, right) = self.rng, self.box
        upright = rng.random() < 0.2
        style = self.style(self.side)
        places = rng.uniform(0, self.w if upright else self.h, int(rng.integers(1, 5)))
        if rng.random() < 0.5:  # above and below, as writing stands between lines
            low, high = (left, right) if upright else (top, bottom)
            gap = (high - low) * rng.uniform(0.02, 0.5, 2)
            places = [low - gap[0], high + gap[1]]
        for at in places:
            if rng.random() < 0.4:
                style = self.style(self.side)
            (self.upright if upright else self.level)(at, **style)

    def squares(self) -> None:
        """Draw squared paper."""
        rng = self.rng
        pitch = max(8, (self.box[1] - self.box[0]) * rng.uniform(0.15, 1.2))
        style = self.style(pitch) | {"width": 1 + int(rng.random() < 0.2)}
        style["strength"] = int(style["strength"] * rng.uniform(0.4, 1))
        start = rng.random(2) * pitch
        for x in np.arange(start[0] - pitch, self.w + pitch, pitch):
            self.upright(x, **style)
        for y in np.arange(start[1] - pitch, self.h + pitch, pitch):
            self.level(y, **style)

    def cell(self) -> None:
        """Draw some sides of a table's cell, thick at times, near the border or outside."""
        rng, (top, bottom, left, right) = self.rng, self.box
        style = self.style(self.side) | {"dash": None}
        if rng.random() < 0.5:
            style["width"] += int(rng.uniform(0, 0.03) * self.side)
        sides = rng.random(4) < rng.choice([0.4, 1.0])
        share = rng.random(4) ** 0.7 * 1.1  # 0: at the ink, 1: at the border
        ink, border = np.array([top, bottom, left, right]), np.array([0, self.h, 0, self.w])
        for number, at in enumerate(ink + (border - ink) * share):
            if sides[number]:
                (self.level if number < 2 else self.upright)(at, **style)

    def by_hand(self) -> None:
        """Draw a box or a ring by hand well around the character."""
        rng, (top, bottom, left, right) = self.rng, self.box
        side = max(bottom - top, right - left, 10)
        wide, high = side * rng.uniform(0.72, 1.2, 2)
        corners, shake = np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]), side * 0.003
        if rng.random() < 0.25:
            corners, shake = np.exp(1j * np.linspace(-2, 4.4, 40)), 0
        corners = corners.real * wide + 1j * corners.imag * high
        if shake:
            corners += side * 0.05 * (rng.normal(0, 1, 4) + 1j * rng.normal(0, 1, 4))
            corners = np.append(corners, corners[0] + side * 0.05 * complex(*rng.normal(0, 1, 2)))
        width = 1 + int(side * rng.uniform(0.005, 0.06))
        strength = int(rng.uniform(120, 256))
        corners += (left + right + 1j * (top + bottom)) / 2
        for ends in zip(corners[:-1], corners[1:], strict=True):
            self.draw(ends, strength, width, shake=shake)

    def through(self) -> None:
        """Draw a line or two across the character, from border to border."""
        for _ in range(int(self.rng.integers(1, 3))):
            y = self.box[0] + (self.box[1] - self.box[0]) * self.rng.random()
            self.level(y, **self.style(self.side))


# Neighbours -------------------------------------------------------------------------------------


def _neighbours(layer, box, hands, rng: np.random.Generator) -> None:
    """Put other characters beside the one in the middle, whole or cut by the picture's border."""
    h, w = layer.shape
    top, bottom, left, right = box
    side = max(bottom - top, right - left)
    around = [(0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    count = 1 if rng.random() < 0.4 else int(rng.integers(2, 9))
    around = around[: 4 if rng.random() < 0.4 else 8]
    small = rng.random() < 0.05  # pinyin, a number
    close, cut = rng.uniform(0.08, 0.6), rng.random() < 0.4
    for down, across in rng.permutation(around)[:count].tolist():
        other = hands[rng.integers(len(hands))]
        scale = rng.uniform(0.2, 0.4) if small else rng.uniform(0.75, 1.2)
        scale *= side / max(other.shape)
        width, height = (max(2, round(n * scale)) for n in other.shape[::-1])
        other = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
        gap = side * close * rng.uniform(0.8, 1.3)
        deep = rng.uniform(0.02, 0.25, 2) * (h, w)  # that the border leaves of it
        y = (top + bottom - height) / 2 + side * rng.normal(0, 0.05)
        x = (left + right - width) / 2 + side * rng.normal(0, 0.05)
        if down:
            far = max(gap, (top if down < 0 else h - bottom) - deep[0]) if cut else gap
            y = top - far - height if down < 0 else bottom + far
        if across:
            far = max(gap, (left if across < 0 else w - right) - deep[1]) if cut else gap
            x = left - far - width if across < 0 else right + far
        y0, x0 = max(0, round(y)), max(0, round(x))
        part = other[max(0, -round(y)) :, max(0, -round(x)) :][: max(0, h - y0), : max(0, w - x0)]
        if part.size:
            view = layer[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
            np.maximum(view, part, out=view)


def _specks(layer, rng: np.random.Generator) -> None:
    """Strew dust: dots, blots and short hairs."""
    h, w = layer.shape
    if rng.random() < 0.5:
        y, x = (rng.random((2, int(rng.integers(5, 250)))) * [[h], [w]]).astype(int)
        layer[y, x] = np.maximum(layer[y, x], rng.integers(40, 255, len(y)))
    for _ in range(int(rng.integers(0, 12))):
        at = tuple((rng.random(2) * [w, h]).astype(int).tolist())
        cv2.circle(layer, at, int(rng.integers(1, 3)), int(rng.integers(60, 255)), -1, cv2.LINE_AA)


# Light ------------------------------------------------------------------------------------------


def _photographed(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take a picture (h, w) uint8 of a page (h, w) float32, 1 = paper."""
    h, w = page.shape
    if rng.random() < 0.7:
        page = cv2.GaussianBlur(page, (0, 0), rng.uniform(0.2, 1.1))
    light = np.float32(rng.uniform(150, 256))
    if rng.random() < 0.6:
        across, down = np.float32(rng.normal(0, 0.15, 2))
        x, y = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in (w, h))
        y = y[:, None]
        light = light * (1 + across * x + down * y)
        if rng.random() < 0.35:  # a shadow
            angle, place = rng.uniform(0, 6.28), rng.uniform(-0.4, 0.4)
            cos, sin = np.float32([np.cos(angle), np.sin(angle)])
            edge = (cos * x + sin * y - place) * max(h, w)
            dark, soft = rng.uniform(0.08, 0.4), rng.uniform(1, 12)
            light = light * (1 - dark * (1 - np.tanh(edge / soft / 2)) / 2)
        if rng.random() < 0.3:
            coarse = rng.standard_normal((h // 6 + 2, w // 6 + 2)).astype(np.float32)
            light = light * (1 + rng.uniform(0, 0.02) * cv2.resize(coarse, (w, h)))
    noise = rng.gamma(1.5, 1.5) * (rng.random() < 0.8)
    picture = page * light + np.float32(noise) * rng.standard_normal((h, w), np.float32)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 98))]
        picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_GRAYSCALE)
    return 255 - picture if rng.random() < 0.08 else picture
