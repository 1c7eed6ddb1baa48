"""Misread samples, listed and drawn.

mistakes = Mistakes(result, dataset, classes)
mistakes.rows                  # rows of the result, the most confident mistake first
mistakes.sheet(200)            # (H,W) uint8 picture with captions
mistakes.write(folder)         # mistakes.csv, all of them, and mistakes.png
"""

import csv
import functools
import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset import CharacterDataset
from evaluation import analysis
from evaluation.score import Result
from jobs.command import printable
from jobs.files import write_file

SIDE, BAR = 64, 20  # pixels: a picture on the sheet, a caption
SHEET = 200  # mistakes on mistakes.png
# Fonts with Chinese characters of Windows, macOS and Linux; without one captions are code points.
FONTS = ("msyh.ttc", "simhei.ttf", "simsun.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc",
         "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc")  # fmt: skip


class Mistake(NamedTuple):
    """A misread sample; the rank of the truth is '>10' if it is not among the best ten."""

    truth: str
    prediction: str
    probability: float
    rank_of_truth: int | str


class Mistakes:
    """The mistakes of a result, and glyphs (S,S) uint8 of samples and classes.

    `rows` (m,) are those of the result, the most confident first. `dataset` is a CharacterDataset,
    or anything with `fetch` and `name`.
    """

    def __init__(self, result: Result, dataset: CharacterDataset, classes: Sequence[str]) -> None:
        self.result, self.dataset, self.classes = result, dataset, classes
        wrong = np.flatnonzero(~analysis.correct(result))
        self.rows = wrong[np.argsort(-result.probability[wrong, 0], kind="stable")]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mistake]:
        return map(self.mistake, self.rows)

    def mistake(self, row: int) -> Mistake:
        """Return the mistake of a row of the result."""
        result = self.result
        rank = np.flatnonzero(result.top[row] == result.labels[row])
        return Mistake(
            self.classes[result.labels[row]],
            self.classes[result.top[row, 0]],
            float(result.probability[row, 0]),
            int(rank[0]) + 1 if len(rank) else f">{result.top.shape[1]}",
        )

    def sample(self, row: int) -> np.ndarray:
        """Return the glyph of a row of the result."""
        return self.dataset.fetch(self.result.indices[row : row + 1])[0][0].cpu().numpy()

    @cached_property
    def _typical(self) -> dict[int, int]:
        """Class -> the row of lowest loss that is read right."""
        order = np.argsort(self.result.losses, kind="stable")
        order = order[analysis.correct(self.result)[order]]
        labels, first = np.unique(self.result.labels[order], return_index=True)
        return dict(zip(labels.tolist(), order[first].tolist(), strict=True))

    def of_class(self, label: int) -> np.ndarray:
        """Return a sample of a class that is read right; an empty glyph if there is none."""
        row = self._typical.get(label)
        return np.zeros_like(self.sample(0)) if row is None else self.sample(row)

    def shown(self, count: int) -> np.ndarray:
        """Return the rows on a sheet: the most confident mistake of each character, `count`."""
        _, first = np.unique(self.result.labels[self.rows], return_index=True)
        return self.rows[np.sort(first)[:count]]

    def sheet(self, count: int, columns: int = 5) -> np.ndarray:
        """Draw mistakes in strips of three glyphs, dark on light: (H,W) uint8.

        A strip is the input, a sample of its class, and a sample of the predicted class. Its
        caption is "truth → prediction probability".
        """
        strips = []
        for number, row in enumerate(self.shown(count), 1):
            truth, guess = int(self.result.labels[row]), int(self.result.top[row, 0])
            trio = [self.sample(row), self.of_class(truth), self.of_class(guess)]
            tiles = [np.pad(255 - scaled(glyph), 1, constant_values=200) for glyph in trio]
            strip = np.hstack(tiles)
            bar = caption(f"{number}  {arrow(self.mistake(row))}", strip.shape[1])
            strips.append(np.pad(np.vstack([bar, strip]), 3, constant_values=128))
        if not strips:
            return caption("no mistakes", 3 * SIDE)
        strips += [np.full_like(strips[0], 128)] * (-len(strips) % columns)
        lines = [np.hstack(strips[at : at + columns]) for at in range(0, len(strips), columns)]
        legend = "input | a sample of its class | a sample of the predicted class"
        return np.vstack([caption(legend, lines[0].shape[1]), *lines])

    def write(self, folder: Path) -> str:
        """Write mistakes.csv and mistakes.png; return a sentence that says so."""
        folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["file", *Mistake._fields])
        for row, mistake in zip(self.rows, self, strict=True):
            name = self.dataset.name(int(self.result.indices[row]))
            cells = mistake._replace(probability=f"{mistake.probability:.4f}")
            table.writerow([safe_cell(str(cell)) for cell in (name, *cells)])
        write_file(folder / "mistakes.csv", text.getvalue().encode("utf-8-sig"))
        sheet = cv2.imencode(".png", self.sheet(SHEET))[1].data
        write_file(folder / "mistakes.png", sheet)
        drawn = f"mistakes.png shows the most confident one of {len(self.shown(SHEET))} characters"
        return f"{folder}: mistakes.csv lists all {len(self):,} mistakes, {drawn}"

    def as_markdown(self, count: int) -> str:
        """Return the mistakes of a sheet as a table, with the same numbers."""
        lines = ["Row by row: input, a sample of its class, a sample of the predicted class."]
        lines += ["", "| | truth | prediction | probability |", "|---|---|---|---|"]
        for number, mistake in enumerate(map(self.mistake, self.shown(count)), 1):
            labels = [label.replace("|", "&#124;") for label in (mistake.truth, mistake.prediction)]
            lines.append(f"| {number} | {' | '.join(labels)} | {mistake.probability:.1%} |")
        return "\n".join(lines)


def scaled(glyph: np.ndarray) -> np.ndarray:
    """Return a glyph at the size of the sheet."""
    way = cv2.INTER_AREA if len(glyph) > SIDE else cv2.INTER_LINEAR
    return cv2.resize(glyph, (SIDE, SIDE), interpolation=way)


@functools.cache
def font() -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, bool]:
    """Return a font for captions, and whether it has Chinese characters."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, BAR - 6), True
        except OSError:
            continue
    return ImageFont.load_default(), False


def arrow(mistake: Mistake) -> str:
    """Return "土 → 士 93%", or "U+571F -> U+58EB 93%" without a Chinese font."""
    labels = [mistake.truth, mistake.prediction]
    sign = "→"
    if not font()[1]:
        labels = [f"U+{ord(x):04X}" if len(x) == 1 and not x.isascii() else x for x in labels]
        labels, sign = [label.encode("ascii", "replace").decode() for label in labels], "->"
    return f"{labels[0][:8]} {sign} {labels[1][:8]} {mistake.probability:.0%}"


def caption(text: str, width: int) -> np.ndarray:
    """Return a line of text, dark on light: (BAR,width) uint8."""
    picture = Image.new("L", (width, BAR), 255)
    ImageDraw.Draw(picture).text((3, 2), printable(text), fill=0, font=font()[0])
    return np.array(picture)


def safe_cell(text: str) -> str:
    """Return the text of a CSV cell: control characters escaped, never a formula."""
    text = printable(text)
    return f"'{text}" if len(text) > 1 and text[0] in "=+-@" else text
