"""Pen trajectories of real writers as templates: how a person wrote every character.

    files = find_hands("hands")                # the folder of --hands
    hand_template(files[0], "永", rng)         # as the first of its writers wrote it

A folder holds one file per writer, `<name>.jsonl.gz`: gzipped UTF-8 text with one JSON object per
line, one for each written character. A character may occur more than once.

field      content
character  one character, "啊"
strokes    one list per stroke, of points [x, y] in the order of writing; y points down, any unit

Other fields are ignored. All characters are scaled by the same factor, so that the median of their
longer sides becomes TYPICAL em.
"""

import functools
import gzip
import json
import zlib
from pathlib import Path

import numpy as np

from jobs.files import is_hidden
from synthesis.templates import TYPICAL, Template, box, lay_out

SUFFIX = ".jsonl.gz"


def find_hands(folder: str | Path) -> list[str]:
    """Return the trajectory files of a folder; raises FileNotFoundError if there is none."""
    found = sorted(Path(folder).absolute().glob(f"*{SUFFIX}"))
    if not (files := [str(path) for path in found if not is_hidden(path.name)]):
        raise FileNotFoundError(f"{folder}: no pen trajectories (*{SUFFIX})")
    return files


def hand_template(path: str, character: str, rng: np.random.Generator) -> Template | None:
    """Return a character as the writer of a file wrote it, None if that writer did not."""
    written = read_hand(path).get(character)
    return lay_out(written[rng.integers(len(written))]) if written else None


@functools.cache
def read_hand(path: str) -> dict[str, list[list[np.ndarray]]]:
    """Read one writer: for each character its samples, each a list of polylines (k,) in em.

    Raises ValueError naming file and line of bad content.
    """
    found: dict[str, list[list[np.ndarray]]] = {}
    number = 0  # lines read so far
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        try:
            for line in lines:
                character, strokes = parse(line)
                number += 1
                if strokes:
                    found.setdefault(character, []).append(strokes)
        except (OSError, EOFError, zlib.error, ValueError) as error:
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
    try:
        character = item["character"]
        ord(character)  # fails unless it is one character
        strokes = [np.array(stroke, float).reshape(-1, 2) for stroke in item["strokes"] if stroke]
    except (KeyError, TypeError, ValueError):
        expected = '{"character": one character, "strokes": lists of points [x, y]}'
        raise ValueError(f"expected {expected}") from None
    if not all(np.isfinite(stroke).all() for stroke in strokes):
        raise ValueError("strokes have coordinates that are not finite")
    return character, [stroke @ [1, 1j] for stroke in strokes]
