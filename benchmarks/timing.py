"""Shared by the benchmarks: alternating runs, medians, rows of results, and test data.

    from benchmarks.timing import Row, alternate, rate, ratio, report, start

Candidates run alternately, round by round, so that other load on the machine affects all of them.
A ratio is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import cv2
import numpy as np

from hwdb.characters import LEVEL1, folder_name
from jobs.command import command

ROOT = Path(__file__).resolve().parents[1]


class Row(NamedTuple):
    """One figure, with its ratio to a baseline measured in the same run."""

    what: str
    value: float
    unit: str
    ratio: float | None = None
    baseline: str = ""


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round."""
    for _ in range(warmup):
        for run in contestants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            begin = clock()
            run()
            seconds[name].append(clock() - begin)
    return seconds


def rate(seconds: list[float], count: int) -> float:
    """Return items per second, the median of the rounds."""
    return count / statistics.median(seconds)


def ratio(seconds: Mapping[str, list[float]], name: str, baseline: str) -> float:
    """Return the ratio of the times of two contestants, the median of the rounds."""
    pairs = zip(seconds[name], seconds[baseline], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def report(rows: list[Row], as_json: bool) -> None:
    """Print rows as a table or as one JSON list."""
    if as_json:
        print(json.dumps([row._asdict() for row in rows], ensure_ascii=False))
        return
    for row in rows:
        text = f"{row.what:<44}{row.value:>12,.{2 if abs(row.value) < 100 else 0}f} {row.unit:<11}"
        if row.ratio is not None:
            text += f" {row.ratio:.2f} x {row.baseline}"
        print(text.rstrip(), flush=True)


def machine() -> str:
    """Return the name of the processor, the number of cores and the load average."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{busy}"


def at_least_one(text: str) -> int:
    """Parse a positive integer of the command line."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return count


def start(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark and exit; errors are one sentence and exit status 2."""

    @command
    def whole() -> int:
        try:
            return main()
        except subprocess.CalledProcessError as error:
            raise ValueError(error) from None

    sys.exit(whole())


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the first line of a docstring and the option --json."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    made.add_argument("--json", action="store_true", help="print the results as JSON")
    return made


def samples(count: int, seed: int = 0, classes: str = LEVEL1) -> list[tuple[str, np.ndarray]]:
    """Return synthetic handwriting: characters with their bitmaps (h,w) uint8, 255 = paper."""
    from synthesis.stream import Handwriting

    handwriting = Handwriting(classes, seed)
    drawn = (handwriting.draw(i) for i in range(count))
    return [(classes[label], bitmap) for bitmap, label in drawn]


def write_tree(root: Path, count: int, classes: int = 100, distinct: int = 1000) -> Path:
    """Write `count` PNG files into class folders, repeating a few distinct pictures.

    They are named after 20 writers in turn, so that validation can hold out two of them.
    """
    files = [
        (character, cv2.imencode(".png", bitmap)[1].tobytes())
        for character, bitmap in samples(min(count, distinct), classes=LEVEL1[:classes])
    ]
    for character in {character for character, _ in files}:
        (root / folder_name(character)).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        character, data = files[number % len(files)]
        name = f"{1001 + number % 20}_{number:06}.png"
        (root / folder_name(character) / name).write_bytes(data)
    return root
