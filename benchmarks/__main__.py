"""Run the benchmarks behind the figures of the README, each with a baseline in the same run.

    python -m benchmarks                          # all that need no dataset
    python -m benchmarks latency load             # some of them
    python -m benchmarks --teacher teacher.onnx   # compared with another network, not shipped
    python -m benchmarks --pictures data/test     # also peers and scenes, on these images
    python -m benchmarks --json > figures.json

Each benchmark is a script with its own options: python -m benchmarks.latency --help. They run one
after the other. On a busy machine, times vary from run to run; ratios vary much less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.timing import machine, start

NAMES = ("convert", "load", "step", "latency", "gpu")
ON_PICTURES = ("peers", "scenes")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; the exit status is 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks: {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--teacher", metavar="FILE", help="ONNX network for latency and peers")
    parser.add_argument("--pictures", metavar="PATH", help="labelled images for peers and scenes")
    given = parser.parse_args(argv)
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no benchmark {' '.join(sorted(unknown))}, expected {', '.join(NAMES)}")
    print(f"machine: {machine()}", file=sys.stderr)
    found, failed = {}, False
    for name in [*(given.names or NAMES), *(ON_PICTURES if given.pictures else ())]:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if name in ("latency", "peers") and given.teacher:
            command += ["--teacher", given.teacher]
        if name in ON_PICTURES:
            command.append(given.pictures)
        if given.json:
            done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE)
            if done.returncode == 0:
                found[name] = json.loads(done.stdout)
        else:
            print(f"\n{name}", flush=True)
            done = subprocess.run(command)
        failed |= done.returncode != 0
    if given.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    start(main)
