"""Make the stand-in data set: synthetic handwriting as .gnt files like those of CASIA-HWDB1.1.

    python synthesize_gnt.py                                    # then: python process_gnt.py
    python synthesize_gnt.py --writers 300 --workers 8          # 1.1 million pictures
    python synthesize_gnt.py --fonts DIR --font-share 0.4       # mix in glyphs of font files
    python synthesize_gnt.py --classes 100 --writers 20 --out data/small
    python synthesize_gnt.py --sheet sheet.png --writers 8      # only look: a row for each writer

One file a writer, characters in GB order, as CASIA delivers them. Writers 10001, 10002, ... are
for training, 20001, 20002, ... for testing: numbers no official file has. Equal seeds give equal
bytes on any number of workers. A run that was stopped goes on where it was: finished files are
kept, unless they were made with other settings. Left out are CASIA's blank and wrong samples.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from hwdb.characters import LEVEL1, SYMBOLS, select_classes
from hwdb.record import write_record
from synthesis.papers import PAPERS, paper, remains
from synthesis.templates import Fonts
from synthesis.writer import HARD, Writer, drawable, render

FIRST_TRAIN, FIRST_TEST = 10001, 20001
MOST_WRITERS = 9999  # of each kind
SETTINGS = "synthesis.json"
CELL = 80  # px of a character on a sheet


@dataclass(frozen=True)
class Job:
    """Everything that decides the bytes of the files, and where they go."""

    out: Path
    characters: str
    seed: int
    hard: tuple[float, float]
    small: float
    coarse: float
    paper: float
    fonts: Fonts | None
    font_share: float


def write_writer(job: Job, number: int) -> Path:
    """Draw all characters of one writer into `<number>-<c|f|s>.gnt`; a finished file is kept."""
    path = job.out / f"{number}-{kind(job.characters)}.gnt"
    if path.exists():
        return path
    rng = np.random.default_rng((job.seed, number))
    writer = Writer.draw(rng, rng.uniform(*job.hard), job.small, job.coarse)
    temporary = path.with_name(path.name + ".tmp")  # one a killed run left is written over
    try:
        with temporary.open("wb") as stream:
            for character in job.characters:
                bitmap = render(character, writer, rng, job.fonts, job.font_share)
                if job.paper and rng.random() < job.paper:
                    bitmap = remains(bitmap, rng)
                write_record(stream, character, bitmap)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def kind(characters: str) -> str:
    """Return CASIA's letter for a file: c = Chinese characters, s = symbols, f = both."""
    symbols = any(c in SYMBOLS for c in characters)
    return "f" if symbols and any(c not in SYMBOLS for c in characters) else "cs"[symbols]


def write_all(job: Job, numbers: list[int], workers: int) -> None:
    """Write the files of all writers, in as many processes as there are workers."""
    progress = tqdm(total=len(numbers), unit="writer", disable=not sys.stderr.isatty())
    with progress:
        if workers == 1:
            for number in numbers:
                write_writer(job, number)
                progress.update()
            return
        context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
        with context.Pool(workers, start_worker, (job,)) as pool:  # left early, it is terminated
            for _ in pool.imap_unordered(write_one, numbers):
                progress.update()


_job: Job | None = None


def start_worker(job: Job) -> None:
    """Keep the job in the worker, so that it travels once; leave Ctrl-C to the main process."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def write_one(number: int) -> Path:
    return write_writer(_job, number)


def keep_settings(job: Job, fonts: Path | None) -> None:
    """Record the settings beside the files; ValueError if the folder holds files of others."""
    settings = {
        "characters": job.characters,
        "seed": job.seed,
        "hard": list(job.hard),
        "small": job.small,
        "coarse": job.coarse,
        "paper": job.paper,
        "fonts": [] if fonts is None else [Path(name).name for name in job.fonts.files],
        "font_share": job.font_share if fonts else 0,
    }
    path = job.out / SETTINGS
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != settings:
            raise ValueError(
                f"{job.out} holds files made with other settings ({SETTINGS}); "
                "choose another --out or remove the folder"
            )
        return
    if any(job.out.glob("*.gnt")):
        raise ValueError(f"{job.out} holds .gnt files of another origin; choose another --out")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def draw_sheet(job: Job, numbers: list[int], path: Path, columns: int = 20) -> None:
    """Write a PNG with a row of characters for each writer, sampled evenly from the classes."""
    chosen = np.linspace(0, len(job.characters) - 1, columns).round().astype(int)
    sheet = np.full((len(numbers) * CELL, columns * CELL), 255, np.uint8)
    for row, number in enumerate(numbers):
        rng = np.random.default_rng((job.seed, number))
        writer = Writer.draw(rng, rng.uniform(*job.hard), job.small, job.coarse)
        for column, index in enumerate(chosen):
            bitmap = render(job.characters[index], writer, rng, job.fonts, job.font_share)
            scale = min(1, (CELL - 4) / max(bitmap.shape))
            if scale < 1:
                bitmap = cv2.resize(bitmap, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            h, w = bitmap.shape
            cell = sheet[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            if job.paper and rng.random() < job.paper:
                cell[:] = paper(PAPERS[rng.integers(len(PAPERS))], CELL, rng)
            y, x = (CELL - h) // 2, (CELL - w) // 2
            cell[y : y + h, x : x + w] = np.minimum(cell[y : y + h, x : x + w], bitmap)
    data = cv2.imencode(".png", sheet)[1]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, path)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument_group("what to make").add_argument
    add("--out", type=Path, default=Path("data/synthetic"), help="folder of the .gnt files")
    add("--writers", type=int, default=40, help="training writers, numbers 10001 and up")
    add("--test-writers", type=int, default=10, help="test writers, numbers 20001 and up")
    add("--classes", default="level1", metavar="SPEC",
        help="level1, symbols, all, a number N (the first N) or a file of characters")  # fmt: skip
    add("--seed", type=int, default=0, help="equal seeds give equal files")
    add("--hard", type=float, nargs=2, default=HARD, metavar=("FROM", "TO"),
        help="range of the writers' unsteadiness: 0.6 careful, 1 ordinary, 1.5 wild")  # fmt: skip
    add("--small", type=float, default=0.0, metavar="SHARE",
        help="share of the writers who write 16 to 50 pixels small with a thin pen")  # fmt: skip
    add("--coarse", type=float, default=0.0, metavar="SHARE",
        help="share of the writers who draw 26 to 50 px, black or white")  # fmt: skip
    add("--paper", type=float, default=0.0, metavar="SHARE",
        help="share of pictures with remains of lines, neighbours; on a sheet: paper")  # fmt: skip
    add("--sheet", type=Path, default=argparse.SUPPRESS, metavar="FILE.png",
        help="draw a page with a row for each training writer instead of .gnt files")  # fmt: skip
    add = parser.add_argument_group("fonts").add_argument
    add(
        "--fonts",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="folder of font files to draw from as well",
    )
    add("--font-share", type=float, default=0.4, help="share of the characters from fonts")
    add = parser.add_argument_group("running").add_argument
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args(argv, argparse.Namespace(sheet=None, fonts=None))


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for settings that make no sense."""
    for name in ("writers", "test_writers"):
        if not 0 <= getattr(args, name) <= MOST_WRITERS:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} is 0 to {MOST_WRITERS}, got {getattr(args, name)}")
    if args.writers + args.test_writers == 0:
        raise ValueError("--writers and --test-writers are both 0: nothing to do")
    if args.sheet and (args.sheet.suffix != ".png" or args.writers == 0):
        raise ValueError("--sheet takes a name ending in .png and at least one of --writers")
    if args.workers < 1:
        raise ValueError(f"--workers is at least 1, got {args.workers}")
    if args.seed < 0:
        raise ValueError(f"--seed is at least 0, got {args.seed}")
    if not 0 <= args.hard[0] <= args.hard[1] <= 3:
        raise ValueError(f"--hard is 0 <= FROM <= TO <= 3, got {args.hard[0]} {args.hard[1]}")
    for name in ("small", "coarse", "paper", "font_share"):
        if not 0 <= getattr(args, name) <= 1:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} is 0 to 1, got {getattr(args, name)}")


def run(args: argparse.Namespace) -> None:
    check(args)
    characters = select_classes(args.classes) or LEVEL1 + SYMBOLS
    fonts = Fonts(args.fonts, characters) if args.fonts else None
    drawable(characters, fonts)
    cv2.setNumThreads(1)
    hard = tuple(args.hard)
    job = Job(args.out, characters, args.seed, hard, args.small, args.coarse, args.paper, fonts,
              args.font_share)  # fmt: skip
    numbers = [FIRST_TRAIN + k for k in range(args.writers)]
    if args.sheet:
        draw_sheet(job, numbers, args.sheet)
        print(f"{args.sheet}: {len(numbers)} writers")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    keep_settings(job, args.fonts)
    numbers += [FIRST_TEST + k for k in range(args.test_writers)]
    write_all(job, numbers, min(args.workers, len(numbers)))
    count = len(numbers) * len(characters)
    print(f"{args.out}: {args.writers} training and {args.test_writers} test writers, "
          f"{len(characters)} characters each, {count:,} pictures")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        run(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
