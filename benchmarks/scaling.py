"""Measure weak scaling of torchrun: 1 and 2 processes with one thread each, equal work for each.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --processes 4 --batch-size 128

train.py runs as a user starts it, with gloo on the CPU; the images a second are its own. Twice the
processes have twice the batch, so that each does the same work; ideal is a ratio of 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.timing import ROOT, Row, at_least_one, parser, report, start, write_tree


def run(tree: Path, out: Path, processes: int, batch_size: int) -> float:
    """Train two epochs and return the images a second of the second one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(ROOT / "train.py"), "--data", str(tree)]
    command += ["--out", str(out), "--epochs", "2", "--threads", "1", "--device", "cpu"]
    command += ["--batch-size", str(batch_size * processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ValueError(f"train.py with {processes} processes failed: {done.stderr[-500:]}")
    lines = (out / "log.jsonl").read_text().splitlines()
    # train.py reports the images of all processes.
    return json.loads(lines[-1])["samples_per_second"]


def measure(processes: int, batch_size: int, rounds: int) -> list[Row]:
    rates: dict[int, list[float]] = {1: [], processes: []}
    with tempfile.TemporaryDirectory() as folder:
        # Of 16 large batches, a tenth is for validation.
        tree = write_tree(Path(folder) / "train", 16 * processes * batch_size)
        for number in range(rounds):
            for count, found in rates.items():
                out = Path(folder) / f"run{number}_{count}"
                found.append(run(tree, out, count, batch_size))
    one, many = (rates[count] for count in (1, processes))
    gain = median(b / (processes * a) for a, b in zip(one, many, strict=True))
    return [
        Row("1 process", median(one), "images/s"),
        Row(f"{processes} processes", median(many), "images/s", gain, f"{processes} times that"),
    ]


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--processes", type=at_least_one, default=2, help="beside 1 (default: 2)")
    options.add_argument(
        "--batch-size", type=at_least_one, default=64, help="of each (default: 64)"
    )
    options.add_argument("--rounds", type=at_least_one, default=3, help="of each (default: 3)")
    given = options.parse_args(argv)
    report(measure(given.processes, given.batch_size, given.rounds), given.json)
    return 0


if __name__ == "__main__":
    start(main)
