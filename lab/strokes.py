"""Build synthesis/strokes/medians.npz, the stroke data of the synthesizer, from an npm package.

    npm pack hanzi-writer-data@2.0.1
    python -m lab.strokes hanzi-writer-data-2.0.1.tgz

The package contains one JSON file per character. This script uses `medians` (one polyline per
stroke, in stroke order, in a box of 1024 units with y up) and `radStrokes` (the strokes of the
radical).

array      type    length       content
characters uint16  K            code points: GB2312 level 1 in GB order
strokes    uint8   K            number of strokes of each character
radical    uint8   packed bits  one bit per stroke: part of the radical
points     uint8   strokes      number of points of each stroke
steps      uint8   (2, points)  x and y of each point minus those of the previous one, modulo 256

Points lie on a grid of 256, y down. Characters beyond level 1 and the outlines are omitted.
"""

import argparse
import json
import sys
import tarfile
from pathlib import Path

import numpy as np

from hwdb.characters import LEVEL1
from jobs.command import command
from jobs.files import replacing

TOLERANCE = 4.0  # units of the package's box of 1024; the strokes are 40 to 60 wide
BASELINE = 900  # y of the top edge of the box in the package
OUT = Path(__file__).parents[1] / "synthesis" / "strokes" / "medians.npz"


def simplify(line: np.ndarray, tolerance: float) -> np.ndarray:
    """Drop the points of a polyline (N, 2) that lie within `tolerance` of the rest.

    Ramer 1972, Douglas and Peucker 1973.
    """
    first, last = line[0], line[-1]
    chord = last - first
    along = np.clip((line - first) @ chord / max(chord @ chord, 1e-9), 0, 1)
    distance = np.hypot(*(line - first - along[:, None] * chord).T)
    farthest = int(distance.argmax())
    if distance[farthest] <= tolerance:
        return np.stack([first, last])
    head, tail = line[: farthest + 1], line[farthest:]
    return np.concatenate([simplify(head, tolerance)[:-1], simplify(tail, tolerance)])


def read_package(path: Path) -> dict[str, dict]:
    """Read the JSON of every level-1 character from the package's .tgz."""
    wanted = {f"package/{character}.json": character for character in LEVEL1}
    try:
        with tarfile.open(path) as archive:
            found = {
                wanted[member.name]: json.load(archive.extractfile(member))
                for member in archive
                if member.name in wanted
            }
    except tarfile.TarError as error:
        raise ValueError(f"{path}: {error}; expected the .tgz of `npm pack`") from None
    if len(found) != len(wanted):
        raise ValueError(f"{path}: {len(found)} of {len(wanted)} level-1 characters found")
    return found


def build(package: dict[str, dict]) -> dict[str, np.ndarray]:
    """Turn the JSON records into the arrays of medians.npz."""
    lines, strokes, radical = [], [], []
    for character in LEVEL1:
        record = package[character]
        radical += [k in record.get("radStrokes", []) for k in range(len(record["medians"]))]
        strokes.append(len(record["medians"]))
        for median in record["medians"]:
            line = simplify(np.array(median, float), TOLERANCE)
            lines.append(np.rint(np.stack([line[:, 0], BASELINE - line[:, 1]]) / 4))
    points = np.concatenate(lines, axis=1).clip(0, 255)
    return {
        "characters": np.array([ord(c) for c in LEVEL1], np.uint16),
        "strokes": np.array(strokes, np.uint8),
        "radical": np.packbits(radical),
        "points": np.array([line.shape[1] for line in lines], np.uint8),
        "steps": (np.diff(points, axis=1, prepend=0) % 256).astype(np.uint8),
    }


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", type=Path, help="hanzi-writer-data-2.0.1.tgz of `npm pack`")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    arrays = build(read_package(args.package))
    with replacing(args.out) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    count = f"{len(arrays['characters'])} characters, {len(arrays['points'])} strokes"
    print(f"{args.out}: {count}, {args.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
