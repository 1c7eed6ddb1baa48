"""Headless Chromium by Playwright, for the tests and for docs/screenshots.py."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from synthesis.templates import stroke_data

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
EMPTY = "\u00a0"  # a place without a reading
PHONE, DESKTOP = (390, 844), (1280, 800)


def missing() -> str:
    """Say what is not there for a browser test, '' if all is."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "Playwright is not there: pip install -r requirements-dev.txt"
    if not executable():
        return "no browser: apt-get install chromium, or name one in BROWSER"
    return ""


def executable() -> str | None:
    """Return the browser: that of the environment variable BROWSER, or one on the path."""
    return next(filter(None, map(shutil.which, (os.environ.get("BROWSER", ""), *NAMES))), None)


@contextmanager
def launch() -> Iterator:
    """Yield a running Playwright browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serve(checkpoint: Path) -> Iterator[int]:
    """Yield the port of a running demo."""
    command = [sys.executable, str(ROOT / "demo.py"), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--checkpoint", str(checkpoint)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())[1])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def settle(page) -> str:
    """Wait until all that was drawn is read, and return the first reading."""
    wait(page, "network !== null && flight === null && !due && pointer === null")
    return page.locator("#readings .han").first.text_content()


def wait(page, condition: str, seconds: float = 15) -> None:
    """Wait for a condition in JavaScript; Playwright's own needs an eval that the page forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {condition}"
        page.wait_for_timeout(20)


def layout(character: str) -> list[np.ndarray]:
    """Return a character's strokes (k,2), in the middle 70 % of a unit square."""
    lines, _ = stroke_data()[character]
    points = np.concatenate(lines)
    centre = (points.real.min() + points.real.max()) / 2
    middle = (points.imag.min() + points.imag.max()) / 2
    span = max(np.ptp(points.real), np.ptp(points.imag))
    return [
        np.stack([line.real - centre, line.imag - middle], 1) * (0.7 / span) + 0.5 for line in lines
    ]


def draw(page, character: str) -> None:
    """Write a character on the page's pad with the mouse, by its strokes in the stroke data."""
    box = page.locator("#pad").bounding_box()
    for line in layout(character):
        places = line * [box["width"], box["height"]] + [box["x"], box["y"]]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()
