"""Read pictures of single characters.

    python predict.py picture.png                    # the ten best readings
    python predict.py scans/ photo.jpg --top-k 3     # folders are searched for pictures
    python predict.py - < picture.png                # a picture from standard input
    python predict.py --json picture.png             # for programs

Scans, photos, inverted and transparent pictures are brought to one form first (picture.py).
Pictures that cannot be read get one sentence each on stderr; the others are still read, and the
exit status is 2. Python programs use recognizer.Recognizer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config import DEFAULT_CHECKPOINT, Config, add_arguments, from_arguments
from picture import PICTURE_SUFFIXES, decode_picture

BATCH = 64


def find_pictures(paths: list[str]) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """Yield name, decoded picture (None: to be read from the name) and error, '' if fine."""
    for path in paths:
        if path == "-":
            try:
                yield path, decode_picture(sys.stdin.buffer.read(), "standard input"), ""
            except ValueError as error:
                yield path, None, str(error)
        elif os.path.isdir(path):
            files = [p for p in sorted(Path(path).rglob("*")) if p.is_file()]
            found = [str(p) for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
            others = [p.name for p in files if p.suffix.lower() not in PICTURE_SUFFIXES]
            others = [name for name in others if not name.startswith(".")]
            if not found:
                yield path, None, f"{path}: holds no pictures (PNG, JPEG, BMP, TIFF)"
            elif others:
                print(
                    f"{path}: skipped what is no picture by its name: {', '.join(others[:3])}"
                    + (f" and {len(others) - 3} more" if len(others) > 3 else ""),
                    file=sys.stderr,
                )
            yield from ((name, None, "") for name in found)
        else:
            yield path, None, ""


def predict(paths: list[str], checkpoint: str, config: Config, top_k: int) -> Iterator[dict]:
    """Yield an element a picture: path and predictions, or path and error, in order."""
    from recognizer import Recognizer
    from training.devices import pick_device

    recognizer = Recognizer.from_checkpoint(checkpoint, pick_device(config.device))
    waiting: list[dict] = []
    glyphs: list[np.ndarray] = []
    for name, picture, error in find_pictures(paths):
        element: dict = {"path": name}
        waiting.append(element)
        try:
            if error:
                raise ValueError(error)
            glyphs.append(recognizer.glyph(name if picture is None else picture))
            element["predictions"] = None
        except (ValueError, OSError) as failure:
            element["error"] = str(failure)
        if len(glyphs) == BATCH:
            yield from fill(recognizer, waiting, glyphs, top_k)
            waiting, glyphs = [], []
    yield from fill(recognizer, waiting, glyphs, top_k)


def fill(recognizer, waiting: list[dict], glyphs: list[np.ndarray], top_k: int) -> list[dict]:
    """Read a batch and put the readings into the elements that wait for them."""
    readings = iter(recognizer.read(np.stack(glyphs), top_k) if glyphs else ())
    for element in waiting:
        if "predictions" in element:
            element["predictions"] = [
                {"character": r.character, "probability": round(r.probability, 6)}
                for r in next(readings)
            ]
    return waiting


def print_table(element: dict) -> None:
    """Print the readings of one picture."""
    print(element["path"])
    for rank, reading in enumerate(element["predictions"], 1):
        print(f"{rank:>4}  {reading['character']}  {reading['probability']:>7.2%}")


def main(argv: list[str] | None = None) -> int:
    """Read pictures as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Read pictures of single characters, one a picture.",
        epilog="Exit status 2 if a picture could not be read.",
    )
    parser.add_argument("pictures", nargs="+", help="picture files, folders, - for standard input")
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        metavar="FILE",
        help="checkpoint (.pt) or exported network (.onnx) (default: the shipped weights)",
    )
    group.add_argument(
        "--top-k", type=int, default=10, metavar="K", help="readings a picture (default: 10)"
    )
    group.add_argument("--json", action="store_true", help="print one JSON list")
    add_arguments(parser, ["device"])
    given = parser.parse_args(argv)
    failed = False
    elements = []
    try:
        config = from_arguments(given)
        if given.top_k < 1:
            raise ValueError(f"--top-k is {given.top_k}, expected 1 or more")
        for element in predict(given.pictures, given.checkpoint, config, given.top_k):
            if "error" in element:
                failed = True
                print(f"error: {element['error']}", file=sys.stderr)
            elif not given.json:
                print_table(element)
            elements.append(element)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    if given.json:
        print(json.dumps(elements, ensure_ascii=False, indent=1))
    return 2 if failed else 0


if __name__ == "__main__":
    # UTF-8 also into a file on Windows; names of files need not be UTF-8 (old Chinese archives).
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if hasattr(signal, "SIGPIPE"):  # end quietly under `| head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
