"""Make synthetic handwriting as .gnt files, in the format of CASIA-HWDB1.1.

    python synthesize_gnt.py                                    # then: python process_gnt.py
    python synthesize_gnt.py --writers 300 --workers 8          # 1.1 million images
    python synthesize_gnt.py --fonts DIR --font-share 0.4       # mix in glyphs of font files
    python synthesize_gnt.py --hands DIR                        # follow real pen trajectories
    python synthesize_gnt.py --sheet sheet.png --writers 8      # only draw a sample page

One file per writer, characters in GB order, as CASIA delivers them. Writers 10001, 10002, ... are
for training and 20001, 20002, ... for testing; no official file has these numbers. The same seed
produces identical files with any number of workers. An interrupted run resumes when it is started
again: finished files are kept. See synthesis/trajectories.py for the format of --hands.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from hwdb.characters import LEVEL1, SYMBOLS, select_classes
from hwdb.record import write_record
from jobs.command import check_range, command, progress
from jobs.files import only_one, read_mark, replacing, write_file, write_mark
from jobs.pool import Workers, cores
from picture import cv2
from synthesis.fonts import Fonts
from synthesis.papers import PAPERS, paper, remains
from synthesis.trajectories import find_hands, read_hand
from synthesis.writer import HARD, Writer, drawable, render

FIRST_TRAIN, FIRST_TEST = 10001, 20001
SETTINGS, VERSION = "synthesis.json", 5  # increase whenever equal settings draw other bytes
SHARES = {  # of the writers
    "small": "write characters of 16 to 52 pixels with a thin pen",
    "coarse": "draw characters of 28 to 54 pixels in pure black and white",
    "pens": "use a pen of 1 to 14 %% of the character height",
    "neat": "write strokes as straight as in print",
}
CELL = 80  # px of a character on a sheet


def draw(
    job: argparse.Namespace, number: int, characters: str
) -> Iterator[tuple[str, np.ndarray, np.random.Generator]]:
    """Yield each character with its bitmap (h, w) uint8 by one writer, and the generator."""
    rng = np.random.default_rng((job.seed, number))
    shares = {name: getattr(job, name) for name in SHARES}
    writer = Writer.draw(rng, rng.uniform(*job.hard), hands=job.hands, **shares)
    for character in characters:
        yield character, render(character, writer, rng, job.fonts), rng


def write_writer(job: argparse.Namespace, out: Path, number: int) -> None:
    """Draw one writer's characters into `<number>-<c|s|f>.gnt`, as CASIA does, if it is missing."""
    kinds = {c in SYMBOLS for c in job.characters}
    kind = "f" if len(kinds) == 2 else "cs"[kinds.pop()]
    path = out / f"{number}-{kind}.gnt"
    if path.exists():
        return
    cv2.setNumThreads(1)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        for character, bitmap, rng in draw(job, number, job.characters):
            if job.paper and rng.random() < job.paper:
                bitmap = remains(bitmap, rng)
            write_record(stream, character, bitmap)


def keep_settings(job: argparse.Namespace, out: Path) -> None:
    """Record the settings that determine the files; ValueError if the folder holds other files."""
    settings = {name: getattr(job, name) for name in ("characters", "seed", "paper", *SHARES)} | {
        "version": VERSION,
        "hard": list(job.hard),
        "fonts": [Path(name).name for name in job.fonts.files] if job.fonts else [],
        "font_share": job.fonts.share if job.fonts else 0,
        "hands": [Path(name).name for name in job.hands],
    }
    before = read_mark(out / SETTINGS, VERSION)
    for left in out.glob(".*.part.gnt"):  # by a killed run
        left.unlink()
    if before != settings and (before or any(out.glob("*.gnt"))):
        problem = f"{out} holds files of another origin or made with other settings ({SETTINGS})"
        raise ValueError(f"{problem}; choose another --out or remove the folder")
    write_mark(out / SETTINGS, settings)


def draw_sheet(job: argparse.Namespace, numbers: list[int], path: Path, columns: int = 20) -> None:
    """Write a PNG with a row of characters for each writer, sampled evenly from the classes."""
    chosen = np.linspace(0, len(job.characters) - 1, columns).round().astype(int)
    characters = "".join(job.characters[index] for index in chosen)
    sheet = np.full((len(numbers), CELL, columns, CELL), 255, np.uint8)
    for row, number in zip(sheet.swapaxes(1, 2), numbers, strict=True):
        for cell, (_, bitmap, rng) in zip(row, draw(job, number, characters), strict=True):
            scale = min(1, (CELL - 4) / max(bitmap.shape))
            bitmap = cv2.resize(bitmap, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            if job.paper and rng.random() < job.paper:
                cell[:] = paper(rng.choice(list(PAPERS)), CELL, rng)
            h, w = bitmap.shape
            y, x = (CELL - h) // 2, (CELL - w) // 2
            cell[y : y + h, x : x + w] = np.minimum(cell[y : y + h, x : x + w], bitmap)
    sheet = sheet.reshape(len(numbers) * CELL, columns * CELL)
    write_file(path, cv2.imencode(".png", sheet)[1].data)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; raise ValueError for settings that are out of range."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument_group("data").add_argument
    add("--out", type=Path, default=Path("data/synthetic"), metavar="DIR",
        help="folder for the .gnt files")  # fmt: skip
    add("--writers", type=int, default=40, metavar="N",
        help="number of training writers, numbered from 10001")  # fmt: skip
    add("--test-writers", type=int, default=10, metavar="N",
        help="number of test writers, numbered from 20001")  # fmt: skip
    add("--classes", default="level1", metavar="SPEC",
        help="level1, symbols, digits, letters, punctuation, all, a number N (the first N in GB "
        "order) or a file of characters")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N",
        help="random seed; the same seed produces identical files")  # fmt: skip
    add("--sheet", type=Path, default=argparse.SUPPRESS, metavar="FILE.png",
        help="draw an image with one row per training writer instead of .gnt files")  # fmt: skip
    add("--workers", type=int, default=cores(), metavar="N", help="processes")
    add = parser.add_argument_group("writers").add_argument
    add("--hard", type=float, nargs=2, default=argparse.SUPPRESS, metavar=("FROM", "TO"),
        help="range of the writers' variation: 0.6 careful, 1 ordinary, 1.5 wild "
        f"(default: {HARD[0]} {HARD[1]})")  # fmt: skip
    for name, what in SHARES.items():
        add(f"--{name}", type=float, default=0.0, metavar="SHARE",
            help=f"share of writers who {what}")  # fmt: skip
    add("--paper", type=float, default=0.0, metavar="SHARE",
        help="share of images with remains of lines or neighbours; with --sheet: with paper "
        "under them")  # fmt: skip
    add = parser.add_argument_group("templates").add_argument
    add("--hands", type=Path, default=argparse.SUPPRESS, metavar="DIR",
        help="folder of pen trajectories (.jsonl.gz); each writer imitates one file")  # fmt: skip
    add("--fonts", type=Path, default=argparse.SUPPRESS, metavar="DIR",
        help="folder of font files, an additional source of character shapes")  # fmt: skip
    add("--font-share", type=float, default=0.4, metavar="SHARE",
        help="share of characters drawn from fonts")  # fmt: skip
    defaults = argparse.Namespace(sheet=None, fonts=None, hands=None, hard=HARD)
    args = parser.parse_args(argv, defaults)
    check_range(args, 0, 9999, "writers", "test_writers")
    check_range(args, 0, 1, "paper", "font_share", *SHARES)
    check_range(args, 0, math.inf, "seed", "workers")
    if args.sheet and (args.sheet.suffix != ".png" or args.writers == 0):
        raise ValueError("--sheet takes a name ending in .png and at least one of --writers")
    if not 0 <= args.hard[0] <= args.hard[1] <= 3:
        raise ValueError(f"--hard is 0 <= FROM <= TO <= 3, got {args.hard[0]} {args.hard[1]}")
    return args


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = parse(argv)
    args.characters = select_classes(args.classes) or LEVEL1 + SYMBOLS
    args.fonts = Fonts(args.fonts, args.characters, args.font_share) if args.fonts else None
    args.hands = find_hands(args.hands) if args.hands else []
    drawable(args.characters, args.fonts)
    for path in args.hands:
        read_hand(path)  # reports damage before anything is written
    numbers = [FIRST_TRAIN + k for k in range(args.writers)]
    if args.sheet:
        draw_sheet(args, numbers, args.sheet)
        print(f"{args.sheet}: {len(numbers)} writers")
        return 0
    numbers += [FIRST_TEST + k for k in range(args.test_writers)]
    workers = Workers(min(args.workers, len(numbers)))
    with only_one(args.out), workers:
        keep_settings(args, args.out)
        written = workers.map(partial(write_writer, args, args.out), numbers)
        for _ in progress(written, total=len(numbers), unit="writer"):
            pass
    print(f"{args.out}: {len(numbers)} writers, {len(args.characters)} characters each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
