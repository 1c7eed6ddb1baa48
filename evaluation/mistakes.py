"""Misread samples, listed and drawn.

mistakes = Mistakes(result, dataset, classes)
mistakes.rows                  # rows of the result, the most confident mistake first
mistakes.sheet(200)            # (H,W) uint8 picture with captions
mistakes.write(folder)         # mistakes.csv, all of them, and mistakes.png
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset import CharacterDataset
from evaluation.score import Result
from jobs.command import printable
from jobs.files import write_file

SIDE, BAR = 64, 20  # pixels: a picture on the sheet, a caption
SHEET = 200  # mistakes on mistakes.png


class Mistake(NamedTuple):
    """A misread sample; the rank of the truth is '>10' if it is not among the best ten."""

    file: str
    truth: str
    prediction: str
    probability: float
    rank_of_truth: int | str


class Mistakes:
    """The mistakes of a result, and glyphs (S,S) uint8 of samples and classes.

    `rows` (m,) are those of the result, the most confident first.
    """

    def __init__(self, result: Result, dataset: CharacterDataset, classes: Sequence[str]) -> None:
        self.result, self.dataset, self.classes = result, dataset, classes
        wrong = np.flatnonzero(~result.correct)
        self.rows = wrong[np.argsort(-result.probability[wrong, 0], kind="stable")]

    def mistake(self, row: int) -> Mistake:
        """Return the mistake of a row of the result."""
        result = self.result
        rank = np.flatnonzero(result.top[row] == result.labels[row])
        return Mistake(
            self.dataset.name(int(result.indices[row])),
            self.classes[result.labels[row]],
            self.classes[result.top[row, 0]],
            float(result.probability[row, 0]),
            int(rank[0]) + 1 if len(rank) else f">{result.top.shape[1]}",
        )

    def sample(self, row: int) -> np.ndarray:
        """Return the glyph of a row of the result."""
        return self.dataset.fetch(self.result.indices[row : row + 1])[0][0].cpu().numpy()

    def of_class(self, label: int) -> np.ndarray:
        """Return the sample of a class with the lowest loss; an empty glyph if none is correct."""
        rows = np.flatnonzero((self.result.labels == label) & self.result.correct)
        if not len(rows):
            return np.zeros_like(self.sample(0))
        return self.sample(rows[self.result.losses[rows].argmin()])

    def shown(self, count: int) -> np.ndarray:
        """Return the rows on a sheet: the most confident mistake of each character, `count`."""
        _, first = np.unique(self.result.labels[self.rows], return_index=True)
        return self.rows[np.sort(first)[:count]]

    def sheet(self, count: int, columns: int = 5) -> np.ndarray:
        """Draw mistakes in strips of three glyphs, dark on light: (H,W) uint8.

        A strip is the input, a sample of its class, and a sample of the predicted class. Its
        caption is "truth -> prediction  probability".
        """
        strips = []
        for row in self.shown(count):
            truth, guess = int(self.result.labels[row]), int(self.result.top[row, 0])
            trio = [self.sample(row), self.of_class(truth), self.of_class(guess)]
            trio = [cv2.resize(255 - g, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for g in trio]
            strip = np.hstack([np.pad(glyph, 1, constant_values=200) for glyph in trio])
            names = " -> ".join(code_point(self.classes[label]) for label in (truth, guess))
            text = f"{names}  {self.result.probability[row, 0]:.0%}"
            bar = caption(text, strip.shape[1])
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
        table.writerow(Mistake._fields)
        for mistake in map(self.mistake, self.rows):
            cells = mistake._replace(probability=f"{mistake.probability:.4f}")
            table.writerow([safe_cell(str(cell)) for cell in cells])
        write_file(folder / "mistakes.csv", text.getvalue().encode("utf-8-sig"))
        sheet = cv2.imencode(".png", self.sheet(SHEET))[1].data
        write_file(folder / "mistakes.png", sheet)
        drawn = f"mistakes.png shows the most confident one of {len(self.shown(SHEET))} characters"
        return f"{folder}: mistakes.csv lists all {len(self.rows):,} mistakes, {drawn}"


def caption(text: str, width: int) -> np.ndarray:
    """Return a line of text, dark on light: (BAR,width) uint8."""
    picture = Image.new("L", (width, BAR), 255)
    ImageDraw.Draw(picture).text((3, 2), text, fill=0, font=ImageFont.load_default())
    return np.array(picture)


def code_point(label: str) -> str:
    """Return a label in ASCII, as not every machine has a Chinese font: "U+571F"."""
    return f"U+{ord(label):04X}" if len(label) == 1 else ascii(label)[1:-1]


def safe_cell(text: str) -> str:
    """Return the text of a CSV cell: control characters escaped, never a formula."""
    text = printable(text)
    return f"'{text}" if len(text) > 1 and text[0] in "=+-@" else text
