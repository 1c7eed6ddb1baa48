"""Misclassified samples: a table of all, and an image of the most confident ones.

    mistakes = Mistakes(result, dataset, classes)
    mistakes.write(folder)         # mistakes.csv and mistakes.png

test.py writes them with --errors, train.py logs the image to TensorBoard.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dataset import CharacterDataset
from evaluation.score import Result
from hwdb.characters import folder_name
from jobs.command import printable
from jobs.files import write_file

SIDE, BAR = 64, 20  # pixels: a picture on the sheet, a caption
SHEET = 200  # mistakes on mistakes.png


class Mistake(NamedTuple):
    """A misread sample."""

    file: str
    truth: str
    prediction: str
    probability: float


class Mistakes:
    """The mistakes of a result: `rows` (m,) of it, the most confident first."""

    def __init__(self, result: Result, dataset: CharacterDataset, classes: Sequence[str]) -> None:
        self.result, self.dataset, self.classes = result, dataset, classes
        wrong = np.flatnonzero(~result.correct)
        self.rows = wrong[np.argsort(-result.probability[wrong, 0], kind="stable")]

    def mistake(self, row: int) -> Mistake:
        """Return the mistake of a row of the result."""
        names = (self.classes[i] for i in (self.result.labels[row], self.result.top[row, 0]))
        probability = round(float(self.result.probability[row, 0]), 4)
        return Mistake(self.dataset.name(int(self.result.indices[row])), *names, probability)

    def sample(self, row: int) -> np.ndarray:
        """Return the glyph (S,S) uint8 of a row of the result, the proposal that was read."""
        index, place = self.result.indices[row : row + 1], self.result.proposals[row]
        if place:
            return self.dataset.proposals(index)[0].glyphs[place]
        return self.dataset.fetch(index)[0][0].cpu().numpy()

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
        table.writerows([printable(str(c)) for c in self.mistake(row)] for row in self.rows)
        write_file(folder / "mistakes.csv", text.getvalue().encode("utf-8-sig"))
        write_file(folder / "mistakes.png", cv2.imencode(".png", self.sheet(SHEET))[1].data)
        if not len(self.rows):
            return f"{folder}: no mistakes to list"
        drawn = f"mistakes.png shows the most confident one of {len(self.shown(SHEET))} characters"
        return f"{folder}: mistakes.csv lists all {len(self.rows):,} mistakes, {drawn}"


def caption(text: str, width: int) -> np.ndarray:
    """Return a line of text, dark on light: (BAR,width) uint8."""
    bar = np.full((BAR, width), 255, np.uint8)
    return cv2.putText(bar, text, (3, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, lineType=cv2.LINE_AA)


def code_point(label: str) -> str:
    """Return a label in ASCII, as not every machine has a Chinese font: "U+571F"."""
    return folder_name(label) if len(label) == 1 else ascii(label)[1:-1]
