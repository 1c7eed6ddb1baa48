"""Print every speed that the README claims, each with its ratio to a baseline of the same run.

    python -m benchmarks                          # all but the peers and growth at 250,000 images
    python -m benchmarks latency startup          # some of them
    python -m benchmarks --teacher teacher.onnx   # beside another network, which is not shipped
    python -m benchmarks --pictures numerals      # peers and scenes, too, on these pictures
    python -m benchmarks --gnt icdar13.gnt        # penwidth, too, on these real samples
    python -m benchmarks --json > figures.json

Each is a script with options of its own: python -m benchmarks.latency --help. They run one
after the other; on a busy machine times differ from run to run, the ratios much less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.timing import machine, start

NAMES = ("convert", "synthesize", "load", "step", "latency", "startup", "gpu", "scaling", "growth")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--teacher", metavar="FILE", help="ONNX network for latency and peers")
    parser.add_argument("--pictures", metavar="PATH", help="labelled pictures: peers, scenes")
    parser.add_argument("--gnt", metavar="FILE", help="real samples: run penwidth, too")
    given = parser.parse_args(argv)
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {' '.join(sorted(unknown))}, expected {', '.join(NAMES)}")
    print(f"machine: {machine()}", file=sys.stderr)
    found, failed = {}, False
    on_data = {"peers": given.pictures, "scenes": given.pictures, "penwidth": given.gnt}
    for name in [*(given.names or NAMES), *(name for name, path in on_data.items() if path)]:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if name in ("latency", "peers") and given.teacher:
            command += ["--teacher", given.teacher]
        if name in on_data:
            command.append(on_data[name])
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
