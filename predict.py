"""Read pictures of single characters.

    python predict.py picture.png                    # the three best readings
    python predict.py scans/ photo.jpg --top-k 10    # folders are searched for pictures
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
import re
import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np

from config import add_arguments, add_reading, default_checkpoint, from_arguments
from jobs.command import check_range, command, printable, shorten
from picture import PICTURE_SUFFIXES, Proposals, cv2, decode_picture
from recognizer import Recognizer

BATCH = 64
TOP = 3


def find_pictures(paths: list[str]) -> Iterator[tuple[str, str | np.ndarray, str]]:
    """Yield name, picture (its path, or from standard input) and error, '' if fine."""
    for path in paths:
        if path == "-":
            try:
                yield path, decode_picture(sys.stdin.buffer.read(), "standard input"), ""
            except ValueError as error:
                yield path, "", str(error)
        elif os.path.isdir(path):
            from pathlib import Path  # takes a while, as does what it imports

            from jobs.files import is_hidden

            files = [p for p in sorted(Path(path).rglob("*")) if p.is_file()]
            files = [p for p in files if not any(map(is_hidden, p.relative_to(path).parts))]
            found = [str(p) for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
            others = [p.name for p in files if p.suffix.lower() not in PICTURE_SUFFIXES]
            if not found:
                yield path, "", f"{path}: holds no pictures (PNG, JPEG, BMP, TIFF)"
            elif others:
                names = shorten(others)
                print(f"{printable(path)}: skipped files of other types: {names}", file=sys.stderr)
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
            readings = [{"character": c, "probability": round(p, 6)} for c, p in read]
            element = {"path": name, "predictions": readings, "notices": read.notices}
            yield element | {"several": read.several} | read.score | named(name)


def named(path: str) -> dict:
    """Return the character that a picture is named by, U+XXXX, or its folder; nothing if none."""
    folder, file = os.path.split(path)
    for name in (os.path.splitext(file)[0], os.path.basename(folder)):
        if match := re.fullmatch(r"U\+([0-9A-F]{4,6})", name):
            return {"expected": chr(min(int(match[1], 16), sys.maxunicode))}
    return {}


def write_debug(stem: str, found: Proposals, index: int) -> None:
    """Write the glyph that was read, four times as large, and what of the picture it is."""
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    large = cv2.resize(found.glyphs[index], None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    for kind, picture in (("glyph", large), ("view", found.view(index))):
        cv2.imencode(".png", picture)[1].tofile(f"{stem}_{kind}.png")


def print_table(element: dict, top_k: int | None) -> None:
    """Print the readings of one picture; of one named U+XXXX the first, and if it is right."""
    doubt = "" if element.get("is_character", True) else "  (hardly a character)"
    path, best = printable(element["path"]), element["predictions"][0]
    if "expected" in element and top_k is None:
        right = best["character"] == element["expected"]
        result = "right" if right else f"wrong, expected {printable(element['expected'])}"
        character = printable(best["character"])
        print(f"{path}  {character}  {best['probability']:.2%}  {result}{doubt}")
        return
    print(path + doubt)
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
    add("--top-k", type=int, metavar="K",
        help="readings of each picture (default: 3; of pictures named U+XXXX, or in such folders, "
        "whether the first is right)")  # fmt: skip
    add("--json", action="store_true", help="print one JSON list")
    add("--debug", default="", metavar="DIR",
        help="write the glyph that was read of each picture, and the picture with what was read in "
        "black and what was left out in red")  # fmt: skip
    add_arguments(parser, ["device"])
    given = parser.parse_args(argv)
    config = from_arguments(given)
    if given.top_k is not None:
        check_range(given, 1, math.inf, "top_k")
    checkpoint = given.checkpoint or default_checkpoint()
    recognizer = Recognizer.from_checkpoint(checkpoint, config.device, given.classes)
    print(printable(recognizer.network.summary), file=sys.stderr)
    elements = []
    for element in predict(recognizer, given.pictures, given.top_k or TOP, given.debug):
        elements.append(element)
        for notice in element.get("notices", ()):
            print(f"{printable(element['path'])}: {notice}", file=sys.stderr)
        if "error" in element:
            print(f"error: {printable(element['error'])}", file=sys.stderr)
        elif not given.json:
            print_table(element, given.top_k)
    compared = [element for element in elements if "expected" in element]
    if compared:
        right = sum(e["predictions"][0]["character"] == e["expected"] for e in compared)
        print(f"{right} of {len(compared)} named pictures read right", file=sys.stderr)
    if given.json:
        print(json.dumps(elements, ensure_ascii=False, indent=1))
    return 2 if any("error" in element for element in elements) else 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # or Python would go through all objects once more before it ends, for 15 ms
    sys.exit(status)
