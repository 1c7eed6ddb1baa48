"""Top-1 of characters on lined paper, in cells, beside others, on pages, and in plain images.

    python -m benchmarks.scenes data/test
    python -m benchmarks.scenes competition.gnt --papers photos/ --fonts fonts/ --every 3
    python -m benchmarks.scenes data/test --plain neat.gnt photos/   # further images
    python -m benchmarks.scenes data/test --pages                    # photos of whole pages

Every kind is drawn from the same characters. For each kind, it prints top-1 among level 1 of the
proposal that the recognizer chose, of all ink kept and of the best proposal (a perfect choice), the
share of images refused as blank, and the number of proposals and the time per image. Plain kinds
show only a character; the exit status is 1 if choosing costs more than half a point on any of them.
`--papers` are photos of empty cells and lines, over which the ink is drawn. `--fonts` contains
folders of web fonts: *sans* (Hei) and *serif* (Song). `--pages` are photos of 2000 x 1500 px with a
character of 300 px in ink or pencil, with or without the sharp edge of a shadow, and the same pages
empty.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks import timing
from benchmarks.peers import pictures
from config import DEFAULT_CHECKPOINT
from hwdb.characters import LEVEL1
from picture import find_proposals, read_picture, to_grey
from recognizer import Recognizer, choose

Pictures = Iterable[tuple[str, np.ndarray]]
SIDE = 160
COST = 0.5  # points that choosing may cost on plain pictures
KINDS = (
    *("clean", "grid", "diagonal grid", "grid, tilted", "grid, photo", "ruled", "cell"),
    *("neighbour", "several neighbours", "neighbours, photo", "specks", "box by hand", "through"),
)

# How much darker than white paper the pen is, of 255; the share of light that a shadow takes.
PAGES = {
    "page": (140, 0),
    "page, shadow": (140, 0.3),
    "page, pencil": (12, 0),
    "page, pencil, shadow": (12, 0.3),
    "page, faintest pencil": (6, 0),
}


# Scenes -----------------------------------------------------------------------------------------


def jpeg(picture: np.ndarray, quality: int = 85) -> np.ndarray:
    """Return a picture as a JPEG file of this quality keeps it."""
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def place(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a page (SIDE,SIDE) float, 1 = paper, with a character (h,w) uint8 near its middle."""
    scale = rng.uniform(75, 105) / max(ink.shape)
    small = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) / 255
    page = np.ones((SIDE, SIDE))
    y, x = ((SIDE - np.array(small.shape)) // 2 + rng.integers(-6, 7, 2)).tolist()
    page[y : y + small.shape[0], x : x + small.shape[1]] = small
    return page


def rules(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the lines (SIDE,SIDE) float of a kind of paper, 1 = paper."""
    lines = np.ones((SIDE, SIDE))
    a, b = int(rng.integers(6, 18)), SIDE - int(rng.integers(6, 18))
    shade, width = rng.uniform(0.1, 0.75), int(rng.integers(1, 5))
    if "grid" in kind:
        cv2.rectangle(lines, (a, a), (b, b), shade, width)
        for t in np.arange(a, b - 4, 8):
            lines[SIDE // 2, t : t + 4] = lines[t : t + 4, SIDE // 2] = shade
            if "diagonal" in kind:
                cv2.line(lines, (int(t), int(t)), (int(t) + 3, int(t) + 3), shade, 1)
                x = int(a + b - t)
                cv2.line(lines, (x, int(t)), (x - 3, int(t) + 3), shade)
    elif kind == "ruled":
        lines[a : a + width] = lines[b : b + width] = shade
    elif kind == "through":
        at = int(rng.integers(95, 115))
        lines[at : at + width] = shade
    elif kind == "cell":
        lines[:width] = lines[:, :width] = lines[-width:] = lines[:, -width:] = shade / 2
    elif kind == "box by hand":
        corners = np.array([[a, a], [b, a], [b, b], [a, b]]) + rng.normal(0, 4, (4, 2))
        for one, two in zip(corners, np.roll(corners, -1, 0), strict=True):
            t = np.linspace(0, 1, 20)[:, None]
            points = one + (two - one) * t + np.cumsum(rng.normal(0, 0.4, (20, 2)), 0)
            cv2.polylines(lines, [np.rint(points).astype(np.int32)], False, shade / 2, width + 1)
    return lines


def scene(kind: str, ink, others, papers, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (SIDE,SIDE) uint8 of a character, 255 = white."""
    page = place(ink, rng)
    if "neighbour" in kind:
        sides = rng.permutation(4)[: rng.integers(2, 5) if kind != "neighbour" else 1]
        for side, other in zip(sides, others, strict=False):
            deep = int(rng.integers(8, 24))
            columns = place(other, rng)
            first = int(np.flatnonzero((columns < 0.5).any(0))[-1]) - deep
            view = np.rot90(page, side)
            view[:, :deep] = np.minimum(view[:, :deep], columns[:, first : first + deep])
    elif kind == "specks":
        y, x = rng.integers(0, SIDE, (2, 250))
        page[y, x] = rng.uniform(0.1, 0.7, 250)
    page = np.minimum(page, rules(kind, rng))
    if "tilted" in kind:
        turn = cv2.getRotationMatrix2D((SIDE / 2,) * 2, rng.uniform(-8, 8), 0.95)
        page = cv2.warpAffine(page, turn, (SIDE, SIDE), borderValue=1)
    light = np.full((SIDE, SIDE), rng.uniform(0.88, 1.0))
    if "photo" in kind:
        light *= np.linspace(1, rng.uniform(0.5, 0.9), SIDE)[None]
        light[:, : int(rng.integers(20, 140))] *= rng.uniform(0.65, 0.9)
        light = cv2.GaussianBlur(light, (0, 0), 2)
    if kind == "paper":
        light = cv2.resize(papers[rng.integers(len(papers))], (SIDE, SIDE)) / 255
    noise = rng.normal(0, 2, page.shape)
    picture = (255 * light * (0.15 + 0.85 * page) + noise).clip(0, 255).astype(np.uint8)
    return jpeg(picture)


def photo(contrast: float, shadow: float, ink: np.ndarray | None, rng) -> np.ndarray:
    """Return a photo (1500,2000) uint8 of a page with a character (h,w) uint8, or of none."""
    y, x = np.mgrid[:1500, :2000].astype(np.float32)
    light = rng.uniform(170, 235) * np.linspace(1, rng.uniform(0.7, 1), 2000, dtype=np.float32)
    edge = x + rng.uniform(-0.6, 0.6) * (y - 750) - rng.uniform(200, 1800)
    light = light * (1 - shadow / (1 + np.exp(-edge.clip(-300, 300) / 6)))
    if ink is not None:
        scale = 300 / max(ink.shape)
        big = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        h, w = big.shape
        top, left = rng.integers(100, 1400 - h), rng.integers(100, 1900 - w)
        part = light[top : top + h, left : left + w]
        part *= 1 - contrast / 255 * (1 - big / np.float32(255))
    page = light + rng.normal(0, 2, light.shape).astype(np.float32)
    return jpeg(page.clip(0, 255).astype(np.uint8))


# Plain pictures ---------------------------------------------------------------------------------


def tight_photo(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a photo (h,w,3) cropped to a character, in uneven light, of 170 px."""
    scale = rng.uniform(110, 160) / max(ink.shape)
    ink = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    margin = rng.integers(1, 20, 4).tolist()
    page = cv2.copyMakeBorder(ink, *margin, cv2.BORDER_CONSTANT, value=255) / 255
    h, w = page.shape
    light = (
        np.linspace(1, rng.uniform(0.75, 1), w) * np.linspace(1, rng.uniform(0.8, 1), h)[:, None]
    )
    page = rng.uniform(140, 235) * light * (0.2 + 0.8 * page)
    page = page[..., None] * rng.uniform(0.85, 1, 3) + rng.normal(0, 2, (h, w, 1))
    return jpeg(page.clip(0, 255).astype(np.uint8))


def dark_mode(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a character (h,w) in white on dark grey, with 0 to 5 % around it."""
    margin = round(rng.choice([0, 0.05]) * max(ink.shape))
    page = cv2.copyMakeBorder(255 - ink, *[margin] * 4, cv2.BORDER_CONSTANT, value=0) / 255
    return np.rint(31 + page * (255 - 31)).astype(np.uint8)


def keyed(ink: np.ndarray, rng: np.random.Generator, scale: float = 1) -> np.ndarray:
    """Return a scan (h,w,4) from which white was keyed out, so that edges are hard."""
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    ink = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=way)
    opacity = np.where(ink < 250, 255, 0)
    return np.dstack([ink, ink, ink, opacity.astype(np.uint8)])


def neat_hand(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a character (100,100), resampled smoothly on white, so that it is no clean scan."""
    scale = 84 / max(ink.shape)
    ink = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4)
    h, w = ink.shape
    page = np.full((100, 100), 255, np.uint8)
    page[(100 - h) // 2 :, (100 - w) // 2 :][:h, :w] = ink
    return cv2.GaussianBlur(page, (0, 0), 0.7)


def off_white(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a character (h,w,3) in dark grey on yellowish paper."""
    page = cv2.copyMakeBorder(ink, *[12] * 4, cv2.BORDER_CONSTANT, value=255)[..., None] / 255
    return np.rint(np.array([225, 240, 248]) * page + 25 * (1 - page)).astype(np.uint8)


PLAIN = {
    "tight photo": tight_photo,
    "dark mode": dark_mode,
    "keyed": keyed,
    "keyed, half size": lambda ink, rng: keyed(ink, rng, 0.5),
    "keyed, double size": lambda ink, rng: keyed(ink, rng, 2),
    "smooth": neat_hand,
}
FACES = {"Hei": "sans", "Song": "serif"}
PRINT = {"off-white": off_white, "photo": tight_photo, "dark": dark_mode}


def printed(fonts: Path, face: str, characters: Iterable[str]) -> Pictures:
    """Yield characters of web fonts (folders *sans*, *serif*) with bitmaps (h,w), 80 px high."""
    from PIL import Image, ImageDraw, ImageFont

    wanted = list(dict.fromkeys(characters))
    for path in sorted(fonts.glob(f"*{FACES[face]}*/*400*.woff2")):
        font = ImageFont.truetype(io.BytesIO(path.read_bytes()), 80)
        missing = bytes(font.getmask(chr(0x10FFFF)))
        for character in [c for c in wanted if bytes(font.getmask(c)) not in (missing, b"")]:
            wanted.remove(character)
            page = Image.new("L", (120, 120), 255)
            ImageDraw.Draw(page).text((60, 60), character, 0, font, "mm")
            bitmap = np.array(page)
            left, top, width, height = cv2.boundingRect((bitmap < 250).view(np.uint8))
            yield character, bitmap[top : top + height, left : left + width]


# Figures ----------------------------------------------------------------------------------------


class Score(NamedTuple):
    """What was read of n pictures of a kind: counts."""

    kind: str
    plain: bool
    n: int
    chosen: int
    all_ink: int
    best: int  # of the proposals
    proposals: int
    refused: int
    seconds: float

    def share(self, count: int) -> float:
        """Return a count in percent."""
        return 100 * count / max(self.n, 1)

    def __str__(self) -> str:
        counts = self.chosen, self.all_ink, self.best, self.refused
        figures = " ".join(f"{self.share(count):>8.1f}" for count in counts)
        each, milliseconds = (x / max(self.n, 1) for x in (self.proposals, 1e3 * self.seconds))
        return f"{self.kind:<28}{self.n:>5} {figures} {each:>9.1f} {milliseconds:>6.1f}"


def measure(recognizer: Recognizer, kind: str, shown: Pictures, plain: bool) -> Score:
    """Read pictures of known characters through every proposal."""
    n = chosen = all_ink = best = count = refused = seconds = 0
    for truth, picture in shown:
        n, start = n + 1, time.perf_counter()
        try:
            found = find_proposals(picture, recognizer.network.size)
        except ValueError:
            refused += 1
            continue
        logits = recognizer.network.logits(found.glyphs[:, None].astype(np.float32) / 255)
        seconds += time.perf_counter() - start
        read = [recognizer.classes[i] == truth for i in logits[:, recognizer.labels].argmax(1)]
        chosen += read[choose(logits, found.priors)]
        all_ink, best, count = all_ink + read[0], best + any(read), count + len(found.glyphs)
    return Score(kind, plain, n, chosen, all_ink, best, count, refused, seconds)


def kinds(given, data: list[tuple[str, np.ndarray]]) -> Iterator[tuple[str, Pictures, bool]]:
    """Yield the kinds of pictures: name, characters with pictures, and whether they are plain."""
    papers = sorted(given.papers.iterdir()) if given.papers else ()
    papers = [to_grey(read_picture(path)) for path in papers]

    def drawn(kind: str) -> Pictures:
        for i, (character, ink) in enumerate(data):
            rng = np.random.default_rng([i, len(kind)])
            beside = [data[j][1] for j in rng.integers(0, len(data), 4)]
            yield character, scene(kind, ink, beside, papers, rng)

    def shown(draw, inks: Pictures) -> Pictures:
        return ((c, draw(ink, np.random.default_rng(i))) for i, (c, ink) in enumerate(inks))

    if given.pages:
        for kind, look in PAGES.items():
            empty = [("", None) for _ in data]
            for name, inks in ((kind, data), (f"{kind}, empty", empty)):
                yield name, shown(functools.partial(photo, *look), inks), False
        return
    yield from ((kind, drawn(kind), False) for kind in (*KINDS, "paper")[: None if papers else -1])
    yield from ((kind, shown(draw, data), True) for kind, draw in PLAIN.items())
    for face in FACES if given.fonts else ():
        known = np.random.default_rng(0).permutation(list(LEVEL1))[: given.limit : given.every]
        inks = list(printed(given.fonts, face, known))
        yield from ((f"{face}, {on}", shown(draw, inks), True) for on, draw in PRINT.items())
    for plain, paths in ((True, given.plain), (False, given.scenes)):
        for path in paths:
            found = itertools.islice(pictures(path), 0, None, given.every)
            yield "/".join(Path(path).parts[-2:]), found, plain


def main(argv: list[str] | None = None) -> int:
    """Print top-1 for every kind; return 1 if choosing costs too much on a plain one."""
    parser = timing.parser(__doc__)
    add = parser.add_argument
    add("pictures", metavar="PATH", help="class folders, .gnt file or folder of .gnt files")
    add("--papers", type=Path, metavar="DIR", help="photos of empty paper")
    add("--fonts", type=Path, metavar="DIR", help="folders of web fonts, for printed characters")
    add("--plain", nargs="*", default=[], metavar="PATH", help="more images of single characters")
    add("--scenes", nargs="*", default=[], metavar="PATH", help="more images of any kind")
    add("--pages", action="store_true", help="test on photos of whole pages instead")
    add("--checkpoint", default=DEFAULT_CHECKPOINT, metavar="FILE")
    add("--limit", type=timing.at_least_one, default=200, metavar="N", help="images per kind")
    add("--every", type=timing.at_least_one, default=1, metavar="N", help="every N-th image only")
    given = parser.parse_args(argv)
    recognizer = Recognizer.from_checkpoint(given.checkpoint, classes="level1")
    known = {*recognizer.classes, ""}  # of empty pages
    data = [(c, to_grey(p)) for c, p in pictures(given.pictures) if c in known]
    if not data:
        raise ValueError(f"{given.pictures}: no picture of a class of {given.checkpoint}")
    order = np.random.default_rng(0).permutation(len(data))[: given.limit : given.every]
    data = [data[i] for i in order]
    scores = []
    if not given.json:
        print(f"{'top-1, %':<33}   chosen  all ink     best  refused proposals     ms")
    for kind, shown, plain in kinds(given, data):
        shown = ((c, picture) for c, picture in shown if c in known)
        scores.append(measure(recognizer, kind, shown, plain))
        if not given.json:
            print(scores[-1], flush=True)
    if given.json:
        print(json.dumps([score._asdict() for score in scores], ensure_ascii=False))
    costly = [s.kind for s in scores if s.plain and s.share(s.all_ink - s.chosen) > COST]
    if costly:
        print(f"choosing costs more than {COST} points: {', '.join(costly)}", file=sys.stderr)
    return 1 if costly else 0


if __name__ == "__main__":
    timing.start(main)
