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


def talk(port: int, text: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def decode(url: str) -> np.ndarray:
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


# --- HTTP


def test_page_loads_nothing_from_elsewhere(port):
    for name, kind in (("", "html"), ("page.css", "css"), ("page.js", "javascript")):
        status, headers, body = ask(port, "GET", f"/{name}?x=1")
        text = body.decode()
        assert status == 200 and headers["Content-Type"] == f"text/{kind}; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import", text)
        if kind == "html":
            policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
            assert policy.startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval';")
            assert "connect-src 'self'" in policy and "unsafe-inline" not in policy


def test_describes_the_network(port):
    expected = {"size": 80, "choices": ["all", "level1", "symbols"], "reads": "server"}
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
    if kind == "scan":
        assert answer["view"] is None  # all ink was kept
    else:
        view = cv2.imread(str(tmp_path / "debug" / "0000_picture_view.png"))
        assert np.array_equal(decode(answer["view"]), view)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (png(np.full((60, 60), 255, np.uint8)), "blank"),
        (b"", "empty"),
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
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 411),
        (b"Content-Length: 1099511627776\r\n", 413),  # none of it is waited for
        (b"Content-Length: 500\r\n", 400),
    ],
)
def test_a_body_has_a_length_up_to_a_limit(port, header, status):
    answer = talk(port, b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status) and answer.count(b"HTTP/1.1") == 1
    assert b'{"error": ' in answer and b"Connection: close" in answer


def test_a_large_picture_is_refused_with_a_reason(port):
    answer = ask(port, "POST", "/read", b"x" * (9 << 20))
    status, sentence = error_of(answer)
    assert status == 413 and "8,388,608 bytes" in sentence


def test_refuses_other_paths_methods_and_requests(port):
    for method, path, expected in (
        ("GET", "/../demo.py", 404),
        ("GET", "/read", 404),
        ("POST", "/upload", 404),
        ("PUT", "/", 501),
        ("POST", "/read?classes=runes", 422),
    ):
        assert error_of(ask(port, method, path, b"x" if method == "POST" else None))[0] == expected
    assert b'{"error": ' in talk(port, b"GET / HTTP/9.9\r\n\r\n")
    twice = b"GET /network.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    assert talk(port, twice).count(b"HTTP/1.1 200") == 2


def test_refuses_foreign_pages(port):
    picture = png(bitmap("大", 1300))
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1", ""):
        assert ask(port, "POST", "/read", picture, Host=host)[0] == 403
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}"):
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


# --- browser


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
    page.route("**/read?*", lambda route: route.fulfill(status=502, body="<html>"))
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
    paper, pen = (
        np.mean([int(v) for v in re.findall(r"\d+", colour)[:3]])
        for colour in page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(pad).color]"
        )
    )
    assert (paper > 200 and pen < 60) if scheme == "light" else (paper < 60 and pen > 200)


@needs_browser
def test_can_be_used_by_keyboard(visit):
    page = visit()
    chromium.draw(page, "大")
    chromium.settle(page)
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(4):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen == ["undo", "clear", "choose", "classes"]


@needs_browser
def test_narrows_the_classes_doubts_and_shows_what_was_left_out(visit, doubting, tmp_path):
    path = tmp_path / "several.png"
    path.write_bytes(png(several()))
    with chromium.serve(doubting) as number:
        page = visit(number=number)
        chromium.draw(page, "大")
        chromium.settle(page)
        assert page.locator("#status").text_content().startswith("Hardly a character. Read in ")
        assert page.locator("#left-out").is_hidden()
        for choice, expected in (("symbols", "12"), ("level1", "一十口人"), ("all", "一十口人12")):
            assert chromium.narrow(page, choice) == set(expected)
        page.locator("#file").set_input_files(path)
        chromium.wait(page, "state.picture !== null")
        chromium.settle(page)
        answer = read(number, several())
        assert page.locator("#view").get_attribute("src") == answer["view"]
        assert page.locator("#glyph").get_attribute("src") == answer["glyph"]
        assert page.locator("#left-out").is_visible() == (answer["view"] is not None)
