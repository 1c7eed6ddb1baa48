"""Time the drawing of synthetic handwriting: pictures a second on one core.

    python -m benchmarks.synthesize
    python -m benchmarks.synthesize --fonts DIR --count 5000 --json
    python -m benchmarks.synthesize --workers 2      # does the script scale?

row        what is drawn
strokes    level-1 characters from strokes, 20 by each writer, as synthesize_gnt.py does
own hand   the same with a writer for every picture, as train.py --synthetic does
symbols    the 171 symbols
fonts      level-1 characters from the glyphs of --fonts
script     synthesize_gnt.py with 1 and with --workers processes, wall time with its start; six
           writers of 3755 characters for each process
apart      as many scripts at once, with one process and six writers each: what the machine gives
           to processes that know nothing of each other

The first four rows are the best of several rounds, after a round that fills the caches of templates
(`first` is its rate), without .gnt files and the network's preprocessing. The script's are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.timing import ROOT, at_least_one, start
from hwdb.characters import LEVEL1, SYMBOLS
from synthesis.templates import Fonts
from synthesis.writer import HARD, Writer, render


def drawer(characters: str, share: int, fonts: Fonts | None) -> Callable[[int], None]:
    """Return a function that draws `count` characters, `share` of them by each writer."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> None:
        for index in range(count):
            if index % share == 0:
                writer = Writer.draw(rng, rng.uniform(*HARD))
            render(characters[rng.integers(len(characters))], writer, rng, fonts, 1.0)

    return draw


def rate(draw: Callable[[int], None], count: int) -> float:
    """Return the pictures a second of the processor's time."""
    begin = time.process_time()
    draw(count)
    return count / (time.process_time() - begin)


def script_rate(workers: int, writers: int, scripts: int = 1) -> float:
    """Return the pictures a second of synthesize_gnt.py, of several that share the writers."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "synthesize_gnt.py"), "--test-writers", "0"]
        command += ["--writers", str(writers // scripts), "--workers", str(workers)]
        begin = time.perf_counter()
        running = [
            subprocess.Popen([*command, "--out", f"{out}/{n}"], stdout=subprocess.DEVNULL)
            for n in range(scripts)
        ]
        if any([process.wait() for process in running]):  # a list: wait for all, whatever happens
            raise ValueError("synthesize_gnt.py failed, see above")
        return writers * len(LEVEL1) / (time.perf_counter() - begin)


def scaling(workers: int, rounds: int) -> tuple[float, ...]:
    """Return the pictures a second of one script with 1 and several workers, and of scripts apart.

    The three take turns; each is the median of the rounds.
    """
    writers = 6 * workers
    ways = ((1, writers, 1), (workers, writers, 1), (1, writers, workers))
    rates = [[script_rate(*way) for way in ways] for _ in range(rounds)]
    return tuple(map(statistics.median, zip(*rates, strict=True)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=at_least_one, default=4000, help="pictures a round")
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--fonts", type=Path, metavar="DIR", help="time the fonts in DIR, too")
    parser.add_argument("--workers", type=int, default=0, help="time the script with so many, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    draws = {
        "strokes": drawer(LEVEL1, 20, None),
        "own hand": drawer(LEVEL1, 1, None),
        "symbols": drawer(SYMBOLS, 20, None),
    }
    if args.fonts:
        draws["fonts"] = drawer(LEVEL1[:500], 20, Fonts(args.fonts, LEVEL1[:500]))
    results = {}
    for name, draw in draws.items():
        first = rate(draw, args.count)
        best = max(rate(draw, args.count) for _ in range(args.rounds))
        results[name] = {"first": round(first), "best": round(best)}
        if not args.json:
            print(f"{name:10s} {first:6.0f} first {best:6.0f} pictures/s a core", flush=True)
    if args.workers:
        one, many, apart = scaling(args.workers, args.rounds)
        gain, share = round(many / one, 3), round(many / apart, 3)
        results["script"] = {"one": round(one), "many": round(many), "ratio": gain}
        results["apart"] = {"rate": round(apart), "ratio": share}
        if not args.json:
            print(f"script     {one:6.0f} with 1 {many:7.0f} pictures/s with {args.workers}: "
                  f"{gain:.2f} times as fast")  # fmt: skip
            print(f"apart      {apart:6.0f} pictures/s of {args.workers} scripts with 1 each; "
                  f"the one with {args.workers}: {share:.2f} times as fast")  # fmt: skip
    if args.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    start(main)
