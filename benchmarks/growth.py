"""Show how cost grows with the data: converter, pack, one epoch and test, per image.

    python -m benchmarks.growth                   # 10,000 and 50,000 images
    python -m benchmarks.growth --sizes 10000 50000 250000

The scripts run as a user starts them, on .gnt files that repeat a thousand synthetic characters.
Time is the processors', of all processes of a script (`pack` has one), with its start; it is
steadier than a clock. Memory is the peak of the largest process, and what each image adds to that
of the smallest size. Training and testing use a network of a quarter of the width at 32 px: the
data are to be seen, not the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import ROOT, Row, at_least_one, parser, report, start, write_gnt

NETWORK = ("--size", "32", "--width", "0.25", "--head", "64", "--epochs", "1", "--threads", "1")

PACK = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
if __name__ == "__main__":
    from packing import open_pack
    open_pack(sys.argv[1], 32, 1)  # in this process, so that its time is counted
"""


def run(*command: object) -> tuple[float, float]:
    """Run a command and return its processor seconds and the peak of its largest process in MB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{command[0]} failed: {said.decode(errors='replace')[-500:]}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6


def one_size(folder: Path, count: int) -> dict[str, tuple[float, float]]:
    """Return seconds and memory of each stage for a number of images."""
    source, out, tree = folder / "gnt", folder / "run", folder / "train"
    write_gnt(source, count)
    found = {"convert": run(ROOT / "process_gnt.py", source, "--out", folder)}
    # A file, not -c: the processes that it spawns import it again.
    (folder / "pack.py").write_text(PACK)
    found["pack"] = run(folder / "pack.py", tree)
    found["epoch"] = run(ROOT / "train.py", "--data", tree, "--out", out, *NETWORK)
    found["test"] = run(ROOT / "test.py", tree, "--checkpoint", out / "best.pt")
    return found


def measure(sizes: list[int], work: Path | None) -> list[Row]:
    rows, first = [], {}
    for count in sizes:
        folder = Path(tempfile.mkdtemp(dir=work))
        try:
            found = one_size(folder, count)
        finally:
            shutil.rmtree(folder)
        for stage, (seconds, memory) in found.items():
            small, short, little = first.setdefault(stage, (count, seconds, memory))
            what, each = f"{stage}, {count:,} images", 1e3 * seconds / count
            if count == small:
                rows.append(Row(f"{what}, time an image", each, "ms"))
                rows.append(Row(f"{what}, peak memory", memory, "MB"))
                continue
            gain = seconds / count / (short / small)
            rows.append(Row(f"{what}, time an image", each, "ms", gain, f"that of {small:,}"))
            more = 1e3 * (memory - little) / (count - small)
            rows.append(Row(f"{what}, more memory an image", more, "kB"))
    return rows


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument(
        "--sizes", type=at_least_one, nargs="+", default=[10_000, 50_000], metavar="N"
    )
    options.add_argument("--work", type=Path, help="where to write (default: a temporary folder)")
    given = options.parse_args(argv)
    report(measure(sorted(given.sizes), given.work), given.json)
    return 0


if __name__ == "__main__":
    start(main)
