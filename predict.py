"""Recognize images of single characters.

    python predict.py picture.png                    # the top 3 predictions
    python predict.py scans/ photo.jpg --top-k 10    # folders are searched for images
    python predict.py - < picture.png                # an image from standard input
    python predict.py --json picture.png             # for other programs
    python predict.py *.png --checkpoint small80.onnx --classes symbols
    python predict.py picture.png --debug look/      # saves what was read and what was left out

For an image that cannot be read, one line is printed on stderr; the others are still read, and the
exit status is 2. In Python, use recognizer.Recognizer.
"""

import argparse
import gc
import json
import math
import os
import re
import sys
from collections.abc import Iterator

import numpy as np

from config import add_arguments, add_reading, default_checkpoint, from_arguments
from jobs.command import check_range, command, printable, sentence, shorten
from picture import Proposals, cv2, decode_picture, find_pictures
from recognizer import Recognizer

BATCH = 64


def open_pictures(paths: list[str]) -> Iterator[tuple[str, str | np.ndarray | Exception]]:
    """Yield name and picture: its path, what standard input holds, or why there is none."""
    for path in paths:
        try:
            if path == "-":
                yield path, decode_picture(sys.stdin.buffer.read(), "standard input")
            elif os.path.isdir(path):
                found, others = find_pictures(path)
                if others:
                    what = f"skipped files of other types: {shorten([p.name for p in others])}"
                    print(f"{printable(path)}: {what}", file=sys.stderr)
                yield from ((str(picture), str(picture)) for picture in found)
            else:
                yield path, path
        except (ValueError, OSError) as error:
            yield path, error


def predict(recognizer: Recognizer, paths: list[str], top_k: int, debug: str) -> Iterator[dict]:
    """Yield one element per picture: path and predictions, or path and error, in order."""
    found = list(open_pictures(paths))
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        pictures = [picture for _, picture in batch if not isinstance(picture, Exception)]
        answers = iter(recognizer.recognize(pictures, top_k))
        for number, (name, picture) in enumerate(batch, start):
            if isinstance(picture, Exception):
                yield {"path": name, "error": sentence(picture)}
                continue
            read = next(answers)
            if read.error:
                yield {"path": name, "error": read.error}
                continue
            if debug:
                stem = f"{number:04}_{os.path.splitext(os.path.basename(name))[0]}"
                write_debug(debug, stem, recognizer.find(picture), read.proposal)
            readings = [{"character": c, "probability": round(p, 6)} for c, p in read]
            element = {"path": name, "predictions": readings, "notices": read.notices}
            yield element | {"several": read.several} | read.score | named(name)


def named(path: str) -> dict:
    """Return the character that a picture is named by, U+XXXX, or its folder; nothing if none."""
    folder, file = os.path.split(path)
    for name in (os.path.splitext(file)[0], os.path.basename(folder)):
        if match := re.fullmatch(r"U\+([0-9A-F]{4,5})", name):
            return {"expected": chr(int(match[1], 16))}
    return {}


def write_debug(folder: str, stem: str, found: Proposals, index: int) -> None:
    """Write the glyph that was read, four times as large, and what of the picture it is."""
    os.makedirs(folder, exist_ok=True)
    large = cv2.resize(found.glyphs[index], None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    for kind, picture in (("glyph", large), ("view", found.view(index))):
        cv2.imencode(".png", picture)[1].tofile(os.path.join(folder, f"{stem}_{kind}.png"))


def print_table(element: dict, top_k: int | None, classes: set[str]) -> None:
    """Print the readings of one picture; of one named U+XXXX the first, and if it is right."""
    doubt = "" if element.get("is_character", True) else "  (probably not a character)"
    lines = [f"{printable(e['character'])}  {e['probability']:.2%}" for e in element["predictions"]]
    path, expected = printable(element["path"]), element.get("expected")
    if expected is None or top_k is not None:
        print(path + doubt, *(f"{rank:>4}  {line}" for rank, line in enumerate(lines, 1)), sep="\n")
    elif element["predictions"][0]["character"] == expected:
        print(f"{path}  {lines[0]}  right{doubt}")
    else:
        wrong = "wrong, expected" if expected in classes else "the network does not read"
        print(f"{path}  {lines[0]}  {wrong} {printable(expected)}{doubt}")


@command
def main(argv: list[str] | None = None) -> int:
    """Read pictures as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Recognize images of single characters.")
    parser.add_argument("pictures", nargs="+", metavar="IMAGE",
        help="image file, folder of images, or - for standard input")  # fmt: skip
    group = parser.add_argument_group("reading")
    add_reading(group)
    add = group.add_argument
    add("--top-k", type=int, metavar="K",
        help="predictions per image (default: 3; for files named U+XXXX, the top one and whether "
        "it is correct)")  # fmt: skip
    add("--json", action="store_true", help="print a JSON list")
    add("--debug", default="", metavar="DIR",
        help="save the network's input and the image: what was read is black, what was left out "
        "is red")  # fmt: skip
    add_arguments(parser, ["device"])
    given = parser.parse_args(argv)
    config = from_arguments(given)
    if given.top_k is not None:
        check_range(given, 1, math.inf, "top_k")
    checkpoint = given.checkpoint or default_checkpoint()
    recognizer = Recognizer.from_checkpoint(checkpoint, config.device, given.classes)
    print(printable(recognizer.network.summary), file=sys.stderr)
    elements, classes = [], set(recognizer.classes)
    for element in predict(recognizer, given.pictures, given.top_k or 3, given.debug):
        elements.append(element)
        for notice in element.get("notices", ()):
            print(f"{printable(element['path'])}: {notice}", file=sys.stderr)
        if "error" in element:
            print(f"error: {printable(element['error'])}", file=sys.stderr)
        elif not given.json:
            print_table(element, given.top_k, classes)
    compared = [element for element in elements if element.get("expected") in classes]
    if compared:
        right = sum(e["predictions"][0]["character"] == e["expected"] for e in compared)
        print(f"{right} of {len(compared)} pictures named U+XXXX are correct", file=sys.stderr)
    if given.json:
        print(json.dumps(elements, ensure_ascii=False, indent=1))
    return 2 if any("error" in element for element in elements) else 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # or Python would go through all objects once more before it ends, for 15 ms
    sys.exit(status)
