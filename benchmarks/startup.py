"""Time the start of predict.py: one picture, from the command line to the reading.

    python -m benchmarks.startup

With the shipped checkpoint, and as an ONNX file in int8; each against the imports of the packages
that it needs, which no program on them can beat.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import cv2

from benchmarks import timing
from config import DEFAULT_CHECKPOINT


def measure(rounds: int) -> list[timing.Row]:
    with tempfile.TemporaryDirectory() as folder:
        picture, network = Path(folder) / "picture.png", Path(folder) / "network.onnx"
        picture.write_bytes(cv2.imencode(".png", timing.samples(1)[0][1])[1].tobytes())
        export = ["export.py", "--checkpoint", DEFAULT_CHECKPOINT, "--out", network]
        export += ["--precision", "int8"]
        subprocess.run([sys.executable, *export], check=True, cwd=timing.ROOT, stdout=sys.stderr)
        bare = {"torch, cv2": DEFAULT_CHECKPOINT, "numpy, cv2, onnxruntime": network}
        commands = {}
        for modules, checkpoint in bare.items():
            commands[modules] = ["-c", f"import {modules}"]
            predict = [timing.ROOT / "predict.py", picture, "--checkpoint", checkpoint]
            commands[f"predict.py, {Path(checkpoint).suffix}"] = predict

        # Ours may be kept compiled, as installed packages are.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

        def run(arguments: list) -> None:
            command = [sys.executable, *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

        seconds = timing.alternate(
            {name: lambda c=c: run(c) for name, c in commands.items()}, rounds
        )
    rows, names = [], list(commands)
    for modules, predict in zip(names[::2], names[1::2], strict=True):
        gain = timing.ratio(seconds, predict, modules)
        rows.append(timing.Row(f'python -c "import {modules}"', median(seconds[modules]), "s"))
        rows.append(timing.Row(predict, median(seconds[predict]), "s", gain, "imports"))
    return rows


def main(argv: list[str] | None = None) -> int:
    options = timing.parser(__doc__)
    options.add_argument(
        "--rounds", type=timing.at_least_one, default=7, help="of each (default: 7)"
    )
    given = options.parse_args(argv)
    timing.report(measure(given.rounds), given.json)
    return 0


if __name__ == "__main__":
    timing.start(main)
