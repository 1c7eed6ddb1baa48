"""Read pictures with a file that takes them (export.py --input picture) and as predict.py does.

    python export.py --input picture --precision int8 --out picture.onnx
    python -m benchmarks.agreement picture.onnx numerals icdar13.gnt
    python -m benchmarks.agreement picture.onnx --drawings 500

How often both say the same first reading, and how often each is right. Drawings are the
printed strokes of characters as lines of three widths, in both polarities, with three paddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np

from benchmarks import timing
from benchmarks.peers import pictures
from config import DEFAULT_CHECKPOINT
from hwdb.characters import LEVEL1
from picture import to_grey
from recognizer import Recognizer, open_session
from synthesis.templates import stroke_data

SIDE = 280  # pixels of a drawn character
WIDTHS = (2, 4, 8)
PADDINGS = (4, 40, 160)


def draw(character: str, width: int, padding: int, dark: bool, rng) -> np.ndarray:
    """Return a canvas (h,w) uint8 with the character's strokes as lines."""
    canvas = np.full((SIDE + 2 * padding,) * 2, 255, np.uint8)
    for stroke in stroke_data()[character][0]:
        points = np.stack([stroke.real, stroke.imag], 1) * SIDE + rng.normal(0, 1, 2) + padding
        at = np.rint(points * 16).astype(np.int32)
        cv2.polylines(canvas, [at], False, 0, width, cv2.LINE_AA, shift=4)
    return canvas if dark else 255 - canvas


def drawings(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield characters with their pictures (h,w) uint8."""
    rng = np.random.default_rng(0)
    kinds = itertools.cycle(itertools.product(WIDTHS, PADDINGS, (True, False)))
    for character, kind in zip(rng.permutation(list(LEVEL1))[:count], kinds, strict=False):
        yield character, draw(character, *kind, rng)


def main(argv: list[str] | None = None) -> int:
    """Print three figures a source."""
    parser = timing.parser(__doc__)
    parser.add_argument("file", metavar="FILE.onnx", help="of export.py --input picture")
    parser.add_argument("pictures", nargs="*", help="tree of class folders, .gnt file or folder")
    parser.add_argument("--drawings", type=timing.at_least_one, metavar="N", help="read, too")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, metavar="FILE")
    given = parser.parse_args(argv)
    recognizer, session = Recognizer.from_checkpoint(given.checkpoint), open_session(given.file)
    sources = {path: pictures(path) for path in given.pictures}
    if given.drawings:
        sources["drawings"] = drawings(given.drawings)
    for name, source in sources.items():
        readings = []  # (truth, ours, the file's)
        for character, picture in source:
            feed = {"picture": to_grey(picture)[None, None]}
            glyph, labels = session.run(["glyph", "labels"], feed)
            theirs = recognizer.network.classes[labels[0, 0]] if glyph.any() else ""
            ours = recognizer.recognize([picture], top_k=1)[0]
            readings.append((character, ours[0].character if ours else "", theirs))
        truth, ours, theirs = np.array(readings).T
        for what, equal in (
            ("read alike", ours == theirs),
            ("right, predict.py", ours == truth),
            ("right, the file", theirs == truth),
        ):
            timing.report(
                [timing.Row(f"{name}, {len(truth)}: {what}", 100 * equal.mean(), "%")], given.json
            )
    return 0


if __name__ == "__main__":
    timing.start(main)
