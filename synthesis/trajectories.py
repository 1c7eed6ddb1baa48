"""Pen trajectories of real writers as templates: how a person wrote every character.

    hands = Hands("hands")                 # the folder of --hands
    hands.template(0, "永", rng)           # as the first of its writers wrote it

A folder holds one file per writer, `<name>.jsonl.gz`: gzipped UTF-8 text with one JSON object a
line, each of them one written character. A character may occur more than once.

field      content
character  one character, "啊"
strokes    one list per stroke, of points [x, y] in the order of writing; y points down, any unit

Other fields are ignored. All are scaled alike, so that the median of the characters' longer sides
becomes TYPICAL em.
"""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from pathlib import Path

import numpy as np

from jobs.files import is_hidden
from synthesis.templates import TYPICAL, Template, box, lay_out

SUFFIX = ".jsonl.gz"


class Hands:
    """Template banks, one for each trajectory file of a folder, in the order of their names.

    Raises FileNotFoundError if there is none, and ValueError naming file and line of bad content.
    """

    def __init__(self, folder: str | Path) -> None:
        found = sorted(Path(folder).glob(f"*{SUFFIX}"))
        self.files = [path for path in found if not is_hidden(path.name)]
        if not self.files:
            raise FileNotFoundError(f"{folder}: no pen trajectories (*{SUFFIX})")
        self.banks = [read_hand(path) for path in self.files]

    def template(self, bank: int, character: str, rng: np.random.Generator) -> Template | None:
        """Return a character as the writer of a bank wrote it, None if that writer did not."""
        written = self.banks[bank].get(character)
        return lay_out(written[rng.integers(len(written))]) if written else None


def read_hand(path: Path) -> dict[str, list[list[np.ndarray]]]:
    """Read one writer: for each character its samples, each a list of polylines (k,) in em."""
    found: dict[str, list[list[np.ndarray]]] = {}
    number = 0  # lines read so far
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                character, strokes = parse(line)
                number += 1
                if strokes:
                    found.setdefault(character, []).append(strokes)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        where = f"{path}, line {number + 1}"
        raise ValueError(f"{where}: {error}; format: synthesis/trajectories.py") from None
    boxes = [box(np.concatenate(strokes)) for samples in found.values() for strokes in samples]
    size = np.median([max((high - low).real, (high - low).imag) for low, high in boxes] or [0])
    if size <= 0:
        raise ValueError(f"{path}: no character with strokes")
    scale = TYPICAL / size
    return {
        character: [[line * scale for line in strokes] for strokes in samples]
        for character, samples in found.items()
    }


def parse(line: str) -> tuple[str, list[np.ndarray]]:
    """Parse one line: the character and its strokes (k,) complex, empty ones left out.

    Raises ValueError for anything but the format above.
    """
    item = json.loads(line)
    if not isinstance(item, dict) or not {"character", "strokes"} <= item.keys():
        raise ValueError('expected {"character": ..., "strokes": ...}')
    character = item["character"]
    if not isinstance(character, str) or len(character) != 1:
        raise ValueError(f"character is {character!r}, expected one character")
    try:
        strokes = [np.array(stroke, float).reshape(-1, 2) for stroke in item["strokes"] if stroke]
    except (TypeError, ValueError):
        raise ValueError("strokes are not lists of points [x, y]") from None
    if not all(np.isfinite(stroke).all() for stroke in strokes):
        raise ValueError("strokes have coordinates that are not finite")
    return character, [stroke @ [1, 1j] for stroke in strokes]


@functools.lru_cache(maxsize=4)
def open_hands(folder: str) -> Hands | None:
    """Return the trajectories of a folder, read once in a process; None for ''."""
    return Hands(folder) if folder else None
