"""Read pictures of single characters.

    python predict.py picture.png                    # the ten best readings
    python predict.py scans/ photo.jpg --top-k 3     # folders are searched for pictures
    python predict.py - < picture.png                # a picture from standard input
    python predict.py --json picture.png             # for programs
    python predict.py *.png --checkpoint small80.onnx --classes symbols
    python predict.py picture.png --debug look/      # writes what was read and what was left out

Scans, photos, inverted and transparent pictures are brought to one form first (picture/).
Pictures that cannot be read get one sentence each on stderr; the others are still read, and the
exit status is 2. With an .onnx file PyTorch is not needed. Python programs use
recognizer.Recognizer.
"""

import argparse
import gc
import json
import math
import os
import sys
from collections.abc import Iterator
from itertools import islice

import cv2
import numpy as np

from config import add_arguments, add_reading, default_checkpoint, from_arguments
from jobs.command import check_range, command, printable, shorten
from picture import PICTURE_SUFFIXES, Proposals, decode_picture
from recognizer import Recognizer

BATCH = 64


def find_pictures(paths: list[str]) -> Iterator[tuple[str, str | np.ndarray, str]]:
    """Yield name, picture (its path, or from standard input) and error, '' if fine."""
    for path in paths:
        if path == "-":
            try:
                yield path, decode_picture(sys.stdin.buffer.read(), "standard input"), ""
            except ValueError as error:
                yield path, path, str(error)
        elif os.path.isdir(path):
            from pathlib import Path  # takes a while, as does what it imports

            files = [p for p in sorted(Path(path).rglob("*")) if p.is_file()]
            found = [str(p) for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
            others = [p.name for p in files if p.suffix.lower() not in PICTURE_SUFFIXES]
            others = [name for name in others if not name.startswith(".")]
            if not found:
                yield path, path, f"{path}: holds no pictures (PNG, JPEG, BMP, TIFF)"
            elif others:
                said = f"{printable(path)}: skipped what is no picture by its name"
                print(f"{said}: {shorten(others)}", file=sys.stderr)
            yield from ((name, name, "") for name in found)
        else:
            yield path, path, ""


def predict(recognizer: Recognizer, paths: list[str], top_k: int, debug: str) -> Iterator[dict]:
    """Yield an element a picture: path and predictions, or path and error, in order."""
    found = enumerate(find_pictures(paths))
    while batch := list(islice(found, BATCH)):
        answers = iter(recognizer.recognize((p for _, (_, p, error) in batch if not error), top_k))
        for number, (name, picture, error) in batch:
            read = None if error else next(answers)
            if error := error or read.error:
                yield {"path": name, "error": error}
                continue
            if debug:
                stem = os.path.splitext(os.path.basename(name))[0]
                stem = os.path.join(debug, f"{number:04}_{stem}")
                write_debug(stem, recognizer.find(picture), read.proposal)
            said = [{"character": c, "probability": round(p, 6)} for c, p in read]
            yield {"path": name, "predictions": said, "notices": read.notices} | read.score


def write_debug(stem: str, found: Proposals, index: int) -> None:
    """Write the glyph that was read, four times as large, and what of the picture it is."""
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    large = cv2.resize(found.glyphs[index], None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    for kind, picture in (("glyph", large), ("view", found.view(index))):
        cv2.imencode(".png", picture)[1].tofile(f"{stem}_{kind}.png")


def print_table(element: dict) -> None:
    """Print the readings of one picture."""
    doubt = "" if element.get("is_character", True) else "  (hardly a character)"
    print(printable(element["path"]) + doubt)
    for rank, reading in enumerate(element["predictions"], 1):
        print(f"{rank:>4}  {printable(reading['character'])}  {reading['probability']:>7.2%}")


@command
def main(argv: list[str] | None = None) -> int:
    """Read pictures as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Read pictures of single characters, one a picture.",
        epilog="Exit status 2 if a picture could not be read.",
    )
    parser.add_argument("pictures", nargs="+", help="picture files, folders, - for standard input")
    group = parser.add_argument_group("reading")
    add_reading(group)
    add = group.add_argument
    add("--top-k", type=int, default=10, metavar="K", help="readings a picture (default: 10)")
    add("--json", action="store_true", help="print one JSON list")
    add("--debug", default="", metavar="DIR",
        help="write there what the network got of each picture, and the picture with boxes around "
        "what is read (green) and what was left out (red, orange)")  # fmt: skip
    add_arguments(parser, ["device"])
    given = parser.parse_args(argv)
    config = from_arguments(given)
    check_range(given, 1, math.inf, "top_k")
    checkpoint = given.checkpoint or default_checkpoint()
    recognizer = Recognizer.from_checkpoint(checkpoint, config.device, given.classes)
    print(printable(recognizer.network.summary), file=sys.stderr)
    elements = []
    for element in predict(recognizer, given.pictures, given.top_k, given.debug):
        elements.append(element)
        for notice in element.get("notices", ()):
            print(f"{printable(element['path'])}: {notice}", file=sys.stderr)
        if "error" in element:
            print(f"error: {printable(element['error'])}", file=sys.stderr)
        elif not given.json:
            print_table(element)
    if given.json:
        print(json.dumps(elements, ensure_ascii=False, indent=1))
    return 2 if any("error" in element for element in elements) else 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # or Python would go through all objects once more before it ends, for 15 ms
    sys.exit(status)
