"""The page for a static host (export.py --page) in a real browser, online and offline."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import browser as chromium
import cv2
import numpy as np
import pytest
from conftest import call_script

import page as published
from config import DEFAULT_CHECKPOINT
from hwdb.characters import LEVEL1
from picture import decode_picture
from recognizer import Recognizer

MISSING = chromium.missing()
if not MISSING and not (published.RUNTIME / published.RUNTIME_FILES[0]).is_file():
    MISSING = "onnxruntime-web is not there: npm ci --prefix page"
needs_page = pytest.mark.skipif(bool(MISSING), reason=MISSING)
CHARACTERS = np.random.default_rng(7).permutation(list(LEVEL1))[:60].tolist()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """Yield a static host at an address that no browser has cached."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def host(site) -> Iterator[http.server.ThreadingHTTPServer]:
    with serve(site) as server:
        yield server


@pytest.fixture
def visit(host) -> Iterator:
    """Open the page; complaints and requests to other hosts fail the test."""
    complaints, asked = [], []
    url = f"http://127.0.0.1:{host.server_port}/"
    with chromium.launch() as browser:
        context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)

        def open_page():
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complaints.append(message.text))
            page.goto(url)
            chromium.wait(page, "network !== null && readHere !== null", 60)
            return page

        context.on("request", lambda request: asked.append(request.url))
        yield open_page, asked
    assert [a for a in asked if not a.startswith((url, "data:", "blob:"))] == []
    assert complaints == []


def write(page, character: str) -> str:
    """Put a character's strokes on the pad, as if drawn, and return the first reading."""
    strokes = [[[x, y, 1] for x, y in line.tolist()] for line in chromium.layout(character)]
    page.evaluate("strokes => enter({strokes, picture: null})", strokes)
    return chromium.settle(page)


def pixels(page) -> np.ndarray:
    """Return the drawing as it is read."""
    data = page.evaluate("drawing().toDataURL()").partition(",")[2]
    return decode_picture(base64.b64decode(data))


@needs_page
def test_reads_drawings_as_predict_does(visit):
    page = visit[0]()
    recognizer = Recognizer.from_checkpoint(DEFAULT_CHECKPOINT)
    drawn = [(write(page, c), pixels(page)) for c in CHARACTERS]
    expected = recognizer.recognize([picture for _, picture in drawn], top_k=1)
    same = [r[0].character == here for (here, _), r in zip(drawn, expected, strict=True)]
    right = [c == here for c, (here, _) in zip(CHARACTERS, drawn, strict=True)]
    assert np.mean(same) >= 0.98 and np.mean(right) >= 0.9


@needs_page
def test_asks_for_its_files_once_and_then_works_without_a_network(visit, host):
    open_page, asked = visit
    page = open_page()
    chromium.wait(page, "navigator.serviceWorker.controller !== null", 60)
    count = len(asked)
    assert count <= 2 * 9  # each file, and once more for the time without a network
    first = write(page, "永")
    assert len(asked) == count
    page.close()
    host.shutdown()
    host.server_close()
    page = open_page()
    assert write(page, "永") == first == "永"


@needs_page
def test_a_blank_picture_is_an_error(visit, tmp_path):
    page = visit[0]()
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((50, 70), 200, np.uint8))
    page.locator("#file").set_input_files(tmp_path / "blank.png")
    page.wait_for_selector("#status.error")
    assert "No ink" in page.locator("#status").text_content()


@needs_page
def test_doubts_and_leaves_the_caches_of_other_pages(doubting, tmp_path):
    done = call_script("export.py", "--checkpoint", doubting, "--page", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    with serve(tmp_path / "site") as server, chromium.launch() as browser:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/page.css")
        page.evaluate("caches.open('another page').then(() => 0)")
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        chromium.wait(page, "network !== null && readHere !== null", 60)
        write(page, "大")
        assert page.locator("#status").text_content().startswith("Probably not a character. Read ")
        chromium.wait(page, "navigator.serviceWorker.controller !== null", 60)
        assert page.evaluate("caches.has('another page')")


def test_a_missing_runtime_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "RUNTIME", tmp_path / "node_modules")
    done = call_script("export.py", "--page", tmp_path / "site")
    assert done.returncode == 2 and "npm ci --prefix page" in done.stderr
    assert not (tmp_path / "site").exists()
