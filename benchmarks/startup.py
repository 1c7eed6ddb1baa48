"""Time the start of predict.py: one picture, from the command line to the reading.

    python -m benchmarks.startup

Against `python -c "import torch, cv2"`, which no program on PyTorch and OpenCV can beat.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import cv2

from benchmarks.timing import (
    ROOT,
    Row,
    alternate,
    at_least_one,
    parser,
    ratio,
    report,
    samples,
    start,
)


def measure(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        picture.write_bytes(cv2.imencode(".png", samples(1)[0][1])[1].tobytes())
        commands = {
            "imports": ["-c", "import torch, cv2"],
            "predict": [ROOT / "predict.py", picture],
        }

        def run(arguments: list) -> None:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

        seconds = alternate({name: lambda c=c: run(c) for name, c in commands.items()}, rounds)
    gain = ratio(seconds, "predict", "imports")
    return [
        Row('python -c "import torch, cv2"', median(seconds["imports"]), "s"),
        Row("predict.py", median(seconds["predict"]), "s", gain, "imports"),
    ]


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=at_least_one, default=7, help="of each (default: 7)")
    given = options.parse_args(argv)
    report(measure(given.rounds), given.json)
    return 0


if __name__ == "__main__":
    start(main)
