"""What was read wrong: the one home of drawing and listing it, for train, test and report.

mistakes = Mistakes(result, glyphs, classes)
mistakes.rows                  # rows of the result, the most confident mistake first
mistakes.sheet(200)            # (H,W) uint8 picture
mistakes.write(folder)         # mistakes.csv, all of them, and mistakes.png, the first 200
"""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dataset import CharacterDataset
from evaluation import analysis
from evaluation.score import Result
from jobs.command import printable
from jobs.files import write_file
from synthesis.stream import SyntheticSet
from synthesis.templates import stroke_data


class Mistake(NamedTuple):
    """A sample that was read wrong; the rank of the truth is '>10' where it is not among ten."""

    truth: str
    prediction: str
    probability: float
    rank_of_truth: int | str


class Mistakes:
    """The mistakes of a result of `glyphs`, and pictures of samples and classes: (S,S) uint8.

    `rows` (m,) are those of the result, the most confident first.
    """

    def __init__(
        self, result: Result, glyphs: CharacterDataset | SyntheticSet, classes: Sequence[str]
    ) -> None:
        self.result, self.glyphs, self.classes = result, glyphs, classes
        wrong = np.flatnonzero(~analysis.correct(result))
        self.rows = wrong[np.argsort(-result.probability[wrong, 0], kind="stable")]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mistake]:
        result = self.result
        for row in self.rows:
            rank = np.flatnonzero(result.top[row] == result.labels[row])
            yield Mistake(
                self.classes[result.labels[row]],
                self.classes[result.top[row, 0]],
                float(result.probability[row, 0]),
                int(rank[0]) + 1 if len(rank) else f">{result.top.shape[1]}",
            )

    def sample(self, row: int) -> np.ndarray:
        """Return the glyph of a row of the result."""
        return self.glyphs.fetch(self.result.indices[row : row + 1])[0][0].cpu().numpy()

    @cached_property
    def _typical(self) -> dict[int, int]:
        """Class -> the row that its class is surest of."""
        order = np.argsort(self.result.losses, kind="stable")
        labels, first = np.unique(self.result.labels[order], return_index=True)
        return dict(zip(labels.tolist(), order[first].tolist(), strict=True))

    def of_class(self, label: int) -> np.ndarray:
        """Return a typical sample of a class; its strokes where there is none, or paper."""
        row = self._typical.get(label)
        if row is not None:
            return self.sample(row)
        glyph = np.zeros_like(self.sample(0))
        size = len(glyph)
        for line in stroke_data().get(self.classes[label], ((), ()))[0]:
            points = np.stack([line.real, line.imag], 1) * (size * 7 / 8) + size / 16
            line = [points.round().astype(np.int32)]
            cv2.polylines(glyph, line, False, 255, max(1, size // 32), cv2.LINE_AA)
        return glyph

    def sheet(self, count: int, columns: int = 5) -> np.ndarray:
        """Draw the first mistakes in strips of three, dark on light: (H,W) uint8.

        A strip is the input, a sample of its class, and one of the class that was read. Pictures in
        place of text: no font is needed to tell one character from the other.
        """
        result, strips = self.result, []
        for row in self.rows[:count]:
            classes = (int(result.labels[row]), int(result.top[row, 0]))
            trio = [self.sample(row), *map(self.of_class, classes)]
            tiles = [np.pad(255 - glyph, 1, constant_values=200) for glyph in trio]
            strips.append(np.pad(np.hstack(tiles), 3, constant_values=128))
        paper = np.full_like(strips[0], 128) if strips else np.full((8, 8), 128, np.uint8)
        strips += [paper] * (-len(strips) % columns)
        lines = [np.hstack(strips[at : at + columns]) for at in range(0, len(strips), columns)]
        return np.vstack(lines or [paper])

    def write(self, folder: Path) -> None:
        """Write mistakes.csv, all of them, and mistakes.png, the first 200, and say how many."""
        folder.mkdir(parents=True, exist_ok=True)
        path, text = folder / "mistakes.csv", io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["file", *Mistake._fields])
        for row, mistake in zip(self.rows, self, strict=True):
            name = self.glyphs.name(int(self.result.indices[row]))
            cells = mistake._replace(probability=f"{mistake.probability:.4f}")
            table.writerow([safe_cell(str(cell)) for cell in (name, *cells)])
        write_file(path, text.getvalue().encode("utf-8-sig"))
        write_file(folder / "mistakes.png", cv2.imencode(".png", self.sheet(200))[1].data)
        print(f"{len(self):,} mistakes: {path}", file=sys.stderr)

    def as_markdown(self, count: int) -> str:
        """Return the first mistakes as a table, numbered as on the sheet."""
        lines = ["Row by row: input, a sample of its class, a sample of the class that was read."]
        lines += ["", "| | truth | read as | probability |", "|---|---|---|---|"]
        for number, mistake in zip(range(1, count + 1), self, strict=False):
            read = [label.replace("|", "&#124;") for label in (mistake.truth, mistake.prediction)]
            lines.append(f"| {number} | {' | '.join(read)} | {mistake.probability:.1%} |")
        return "\n".join(lines)


def safe_cell(text: str) -> str:
    """Return the text of a CSV cell: control characters escaped, never a formula."""
    text = printable(text)
    return f"'{text}" if len(text) > 1 and text[0] in "=+-@" else text
