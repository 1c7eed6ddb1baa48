"""Make the screenshots of the README: docs/demo.png and docs/report.png.

    python -m docs.screenshots --checkpoint checkpoints/small80.pt
    python -m docs.screenshots demo.png --checkpoint runs/train/best.pt

They show synthetic handwriting: a character of the stroke data drawn on the page, and a test on
writers synthesized for it. Needs Chromium, requirements-dev.txt and requirements-optional.txt.
docs/synthetic.png is made by python synthesize_gnt.py --sheet docs/synthetic.png --writers 8.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from jobs.command import command
from recognizer import load_network
from synthesis.templates import stroke_data
from tests import browser as chromium

ROOT = Path(__file__).resolve().parents[1]
CHARACTER = "永"
CLASSES = 300  # in the report, at most
GAP = 24  # px between two pages
HEIGHT = 820  # px of the parts of the report


def screenshot(page) -> np.ndarray:
    """Return what the page shows, (h,w,3) BGR."""
    return cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)


def picture_demo(browser, checkpoint: Path) -> np.ndarray:
    """Return the demo page on a desktop in light and on a phone in dark, side by side."""
    shots = []
    with chromium.serve(checkpoint) as port:
        for size, scheme in (((1040, 740), "light"), ((390, 740), "dark")):
            viewport = {"width": size[0], "height": size[1]}
            page = browser.new_page(viewport=viewport, color_scheme=scheme)
            page.goto(f"http://127.0.0.1:{port}/")
            chromium.draw(page, CHARACTER)
            print(f"{CHARACTER} read as {chromium.settle(page)}", file=sys.stderr)
            page.wait_for_timeout(300)  # the bars grow
            shots += [screenshot(page), np.full((size[1], GAP, 3), 255, np.uint8)]
            page.close()
    return np.hstack(shots[:-1])


def picture_report(browser, checkpoint: Path, folder: Path) -> np.ndarray:
    """Return two parts of a report on synthetic handwriting, side by side."""
    known = [c for c in load_network(checkpoint).classes if c in stroke_data()]
    (folder / "classes.txt").write_text("".join(known[:CLASSES]), encoding="utf-8")
    run(folder, "synthesize_gnt.py", "--out", "synthetic", "--writers", 0, "--test-writers", 20,
        "--classes", "classes.txt", "--workers", 2)  # fmt: skip
    shutil.copy(checkpoint, folder)  # the report names paths as they are given
    run(folder, "test.py", "synthetic", "--checkpoint", checkpoint.name, "--report", ".")
    page = browser.new_page(viewport={"width": 760, "height": HEIGHT}, color_scheme="light")
    page.goto((folder / "report.html").as_uri())
    shots = [screenshot(page)]
    page.get_by_role("heading", name="Most confused").evaluate("h => h.scrollIntoView()")
    shots += [np.full((HEIGHT, GAP, 3), 255, np.uint8), screenshot(page)]
    page.close()
    return np.hstack(shots)


def run(folder: Path, script: str, *arguments: object) -> None:
    """Run a script of the repository in a folder; raises ValueError if it fails."""
    line = [sys.executable, str(ROOT / script), *map(str, arguments)]
    if subprocess.run(line, cwd=folder, stdout=subprocess.DEVNULL).returncode:
        raise ValueError(f"{script} failed")


def write(name: str, picture: np.ndarray) -> None:
    """Write a PNG beside this file, at two thirds of its size."""
    small = cv2.resize(picture, None, fx=2 / 3, fy=2 / 3, interpolation=cv2.INTER_AREA)
    path = Path(__file__).with_name(name)
    data = cv2.imencode(".png", small, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    data.tofile(path)
    print(f"{path}: {len(data) / 1000:.0f} KB")


@command
def main(argv: list[str] | None = None) -> int:
    """Make the pictures; return the exit status."""
    parser = argparse.ArgumentParser(description="Make the screenshots of the README.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="demo.png, report.png or both")
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "checkpoints" / "small80.pt", metavar="FILE",
        help="checkpoint to use (default: the shipped weights)",
    )  # fmt: skip
    given = parser.parse_args(argv)
    names = given.names or ["demo.png", "report.png"]
    if others := set(names) - {"demo.png", "report.png"}:
        raise ValueError(f"{', '.join(others)}: expected demo.png or report.png")
    if reason := chromium.missing():
        raise ValueError(reason)
    if not given.checkpoint.is_file():
        raise FileNotFoundError(f"{given.checkpoint}: no such checkpoint")
    with chromium.launch() as browser, tempfile.TemporaryDirectory() as folder:
        if "demo.png" in names:
            write("demo.png", picture_demo(browser, given.checkpoint))
        if "report.png" in names:
            write("report.png", picture_report(browser, given.checkpoint, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
