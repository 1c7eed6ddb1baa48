"""The demo: its server over HTTP, and its page in a real browser with real pointer events."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import browser as chromium
import cv2
import numpy as np
import pytest
from conftest import CHARACTERS, bitmap, call_script, several

from config import DEFAULT_CHECKPOINT

EMPTY = chromium.EMPTY
needs_browser = pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing())


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with chromium.serve(DEFAULT_CHECKPOINT) as number:
        yield number


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str):
    """Send a request and return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def read(port: int, picture: np.ndarray) -> dict:
    status, _, body = ask(port, "POST", "/read", png(picture))
    assert status == 200, body
    return json.loads(body)


def error_of(answer: tuple) -> tuple[int, str]:
    """Return status and sentence of an answer that must be an error in JSON."""
    status, headers, body = answer
    assert headers["Content-Type"].startswith("application/json")
    assert list(json.loads(body)) == ["error"]
    return status, json.loads(body)["error"]


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def decode(url: str) -> np.ndarray:
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    ("name", "kind"), [("", "html"), ("page.css", "css"), ("page.js", "javascript")]
)
def test_page_loads_nothing_from_elsewhere(port, name, kind):
    status, headers, body = ask(port, "GET", f"/{name}?x=1")
    text = body.decode()
    assert status == 200 and headers["Content-Type"] == f"text/{kind}; charset=utf-8"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import", text)
    if kind == "html":
        assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in text
        assert "unsafe-inline" not in text


def test_describes_the_network(port):
    expected = {"size": 80, "reads": "server"}
    expected["summary"] = f"{DEFAULT_CHECKPOINT}: 3926 classes, the shipped weights"
    assert json.loads(ask(port, "GET", "/network.json")[2]) == expected


@pytest.mark.parametrize("kind", ["scan", "several characters"])
def test_reads_as_predict_does(port, tmp_path, kind):
    picture = bitmap("大", 1300) if kind == "scan" else several()
    answer, path = read(port, picture), tmp_path / "picture.png"
    path.write_bytes(png(picture))
    given = ["--checkpoint", DEFAULT_CHECKPOINT, "--json", "--top-k", "10", "--debug"]
    done = call_script("predict.py", path, *given, tmp_path / "debug")
    (expected,) = json.loads(done.stdout)
    assert answer["readings"] == [
        r | {"probability": pytest.approx(r["probability"], abs=1e-5)}
        for r in expected["predictions"]
    ]
    assert answer["notices"] == expected["notices"]
    glyph = cv2.imread(str(tmp_path / "debug" / "0000_picture_glyph.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decode(answer["glyph"]), glyph[::4, ::4])
    assert (answer["view"] is None) == (kind == "scan")  # where all ink was kept


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (png(np.full((60, 60), 255, np.uint8)), "blank"),
        (b"", "not a picture"),
        (b'{"strokes": []}', "not a picture"),
        (png(bitmap("大", 1300))[:50], "picture"),
    ],
)
def test_refuses_what_cannot_be_read(port, body, message):
    status, sentence = error_of(ask(port, "POST", "/read", body))
    assert status == 422 and message in sentence


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"", 411),
        (b"Content-Length: -5\r\n", 411),
        (b"Content-Length: 1099511627776\r\n", 413),  # none of it is waited for
        (b"Content-Length: 500\r\n", 422),
    ],
)
def test_a_body_has_a_length_up_to_a_limit(port, header, status):
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n0")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.0 %d " % status) and b'{"error": ' in answer


def test_a_large_picture_is_refused_with_a_reason(port):
    status, sentence = error_of(ask(port, "POST", "/read", b"x" * (9 << 20)))
    assert status == 413 and "8,388,608 bytes" in sentence


def test_refuses_other_paths(port):
    for method, path, expected in (
        ("GET", "/../demo.py", 404),
        ("GET", "/read", 404),
        ("POST", "/upload", 404),
    ):
        assert error_of(ask(port, method, path, b"x" if method == "POST" else None))[0] == expected


def test_refuses_foreign_pages(port):
    picture = png(bitmap("大", 1300))
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        assert ask(port, "POST", "/read", picture, Host=host)[0] == 403
        assert ask(port, "GET", "/network.json", Host=host)[0] == 403
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"{socket.gethostname()}.local"):
        assert ask(port, "POST", "/read", picture, Host=host)[0] == 200
    mine = f"http://127.0.0.1:{port}"
    for origin, status in ((mine, 200), ("http://evil.example", 403), ("null", 403)):
        assert ask(port, "POST", "/read", picture, Origin=origin)[0] == status


def test_answers_many_at_once(port):
    pictures = [bitmap(character, 1300) for character in CHARACTERS] * 4
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda picture: read(port, picture)["readings"], pictures))
    assert answers == answers[: len(CHARACTERS)] * 4


def test_errors_are_one_sentence(port, trained, tmp_path):
    best = ["--checkpoint", trained / "best.pt"]
    for arguments, message in (
        (["--checkpoint", tmp_path / "none.pt"], "no such checkpoint"),
        ([*best, "--port", port], "--port 0"),
        ([*best, "--port", "123456"], "--port 0"),
        ([*best, "--device", "tpu"], "--device"),
    ):
        done = call_script("demo.py", *arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr


@pytest.fixture(scope="module")
def running() -> Iterator:
    with chromium.launch() as browser:
        yield browser


@pytest.fixture
def visit(running, port) -> Iterator:
    """Open the page; afterwards nothing may have been complained of, or asked of others."""
    contexts, complaints, asked = [], [], []

    def open_page(size=chromium.DESKTOP, number=port, tolerate="getImageData", **options):
        viewport = {"width": size[0], "height": size[1]}
        context = running.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: tolerate in m.text or complaints.append(m.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{number}/")
        chromium.wait(page, "document.getElementById('network').textContent !== ''")
        return page

    yield open_page
    for context in contexts:
        context.close()
    mine = ("http://127.0.0.1:", "data:", "blob:")
    assert [url for url in asked if not url.startswith(mine)] == []
    assert [text for text in complaints if "getImageData" not in text] == []


def ink(page) -> int:
    """Count the inked pixels of the pad."""
    return page.evaluate(
        "() => pad.getContext('2d').getImageData(0, 0, pad.width, pad.height).data"
        ".filter((value, i) => i % 4 === 3 && value).length"
    )


@needs_browser
def test_draw_and_read(visit):
    page = visit()
    assert page.locator("#network").text_content().endswith("3926 classes, the shipped weights")
    for character in "永年国":
        chromium.draw(page, character)
        assert chromium.settle(page) == character
        assert decode(page.locator("#glyph").get_attribute("src")).shape == (80, 80)
        assert page.locator("#spoken").text_content().startswith(character)
        page.get_by_role("button", name="Clear").click()
        assert chromium.settle(page) == EMPTY


@needs_browser
def test_undo_and_clear(visit):
    page = visit()
    undo, clear = (page.get_by_role("button", name=name) for name in ("Undo", "Clear"))
    assert undo.is_disabled() and clear.is_disabled()
    chromium.draw(page, "十")
    both, full = chromium.settle(page), ink(page)
    undo.click()
    chromium.settle(page)
    assert 0 < ink(page) < full
    page.keyboard.press("Control+z")
    assert chromium.settle(page) == EMPTY and ink(page) == 0 and undo.is_disabled()
    chromium.draw(page, "十")
    page.keyboard.press("Escape")
    assert chromium.settle(page) == EMPTY and clear.is_disabled()
    undo.click()  # clearing can be undone
    assert chromium.settle(page) == both and ink(page) == full


@needs_browser
def test_pictures_are_chosen_pasted_and_dropped(visit, tmp_path, port):
    page, path = visit(), tmp_path / "口.png"
    path.write_bytes(png(255 - bitmap("口", 1300)))  # light on dark
    expected = read(port, 255 - bitmap("口", 1300))["readings"][0]["character"]
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Picture").click()
    chooser.value.set_files(path)
    chromium.wait(page, "state.picture !== null")
    assert chromium.settle(page) == expected and ink(page) > 0
    for event, field in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        page.get_by_role("button", name="Clear").click()
        assert chromium.settle(page) == EMPTY
        page.evaluate(
            "([data, event, field]) => { const transfer = new DataTransfer();"
            "const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));"
            "transfer.items.add(new File([bytes], 'a.png', {type: 'image/png'}));"
            "const Kind = event === 'paste' ? ClipboardEvent : DragEvent;"
            "document.body.dispatchEvent("
            "new Kind(event, {[field]: transfer, bubbles: true, cancelable: true})); }",
            [base64.b64encode(path.read_bytes()).decode(), event, field],
        )
        chromium.wait(page, "state.picture !== null")
        assert chromium.settle(page) == expected
    chromium.draw(page, "一")  # a drawing takes the picture's place
    assert page.evaluate("state.picture") is None
    chromium.settle(page)


@needs_browser
def test_a_late_answer_is_not_shown(visit):
    page = visit()
    page.evaluate(
        "() => { const real = fetch; let first = true; window.fetch = (...request) => {"
        "if (!first) return real(...request); first = false;"
        "return new Promise(resolve => { window.late = resolve; }); }; }"
    )
    chromium.draw(page, "一")
    chromium.wait(page, "window.late !== undefined && due")
    page.get_by_role("button", name="Clear").click()
    chromium.draw(page, "口")
    shown = chromium.settle(page)
    page.evaluate(
        "late(new Response(JSON.stringify({readings: [{character: '错', probability: 1}]})))"
    )
    page.wait_for_timeout(100)
    assert chromium.settle(page) == shown != "错"


@needs_browser
def test_errors_are_shown(visit, tmp_path):
    page = visit(tolerate="status of ")
    (tmp_path / "notes.txt").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "notes.txt")
    page.wait_for_selector("#status.error")
    assert "not a picture" in page.locator("#status").text_content()
    page.route("**/read*", lambda route: route.fulfill(status=502, body="<html>"))
    chromium.draw(page, "一")
    chromium.settle(page)
    assert "does not answer" in page.locator("#status").text_content()


@needs_browser
@pytest.mark.parametrize("size", [chromium.PHONE, chromium.DESKTOP, (320, 640)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_widths_and_schemes(visit, size, scheme):
    page = visit(size, color_scheme=scheme)
    chromium.draw(page, "大")
    chromium.settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    pen = page.evaluate("getComputedStyle(pad).color")
    assert (np.mean([int(v) for v in re.findall(r"\d+", pen)[:3]]) > 128) == (scheme == "dark")


@needs_browser
def test_doubts_and_shows_what_was_left_out(visit, doubting, tmp_path):
    path = tmp_path / "several.png"
    path.write_bytes(png(several()))
    with chromium.serve(doubting) as number:
        page = visit(number=number)
        chromium.draw(page, "大")
        chromium.settle(page)
        assert page.locator("#status").text_content().startswith("Probably not a character. Read ")
        assert page.locator("#left-out").is_hidden()
        page.locator("#file").set_input_files(path)
        chromium.wait(page, "state.picture !== null")
        chromium.settle(page)
        answer = read(number, several())
        assert page.locator("#view").get_attribute("src") == answer["view"]
        assert page.locator("#glyph").get_attribute("src") == answer["glyph"]
        assert page.locator("#left-out").is_visible() == (answer["view"] is not None)
