"""The demo: its server over HTTP, and its page in a real browser with real pointer events."""

from __future__ import annotations

import base64
import http.client
import json
import re
import select
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import browser as chromium
import cv2
import numpy as np
import pytest
from conftest import CHARACTERS, ROOT, bitmap, several

import demo
from config import DEFAULT_CHECKPOINT
from jobs.bounded import Bounded, TooMuch
from picture import to_glyph
from recognizer import Recognizer

needs_browser = pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing())
EMPTY = chromium.EMPTY


@pytest.fixture(scope="module")
def port(trained) -> Iterator[int]:
    with chromium.serve(trained / "best.pt") as number:
        yield number


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str):
    """Send a request and return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


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


# --- HTTP


def test_page_loads_nothing_from_elsewhere(port):
    for name, kind in (("", "html"), ("page.css", "css"), ("page.js", "javascript")):
        status, headers, body = ask(port, "GET", f"/{name}")
        page = body.decode()
        assert status == 200 and headers["Content-Type"] == f"text/{kind}; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import", page)
        assert not name or f'"{name}"' in ask(port, "GET", "/")[2].decode()
    page = ask(port, "GET", "/")[2].decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval';")
    assert "connect-src 'self'" in policy and "unsafe-inline" not in policy
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert ask(port, "HEAD", "/")[2] == b""


def test_reads_as_the_recognizer_does(port, trained):
    recognizer = Recognizer.from_checkpoint(trained / "best.pt")
    for character in CHARACTERS:
        picture = bitmap(character, 1300)
        status, _, body = ask(port, "POST", "/read", png(picture))
        answer = json.loads(body)
        expected = recognizer.recognize([picture], 10)[0]
        assert status == 200
        assert [r["character"] for r in answer["readings"]] == [r.character for r in expected]
        assert [r["probability"] for r in answer["readings"]] == pytest.approx(
            [r.probability for r in expected], abs=1e-5
        )
        kind, _, data = answer["glyph"].partition(",")
        glyph = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), -1)
        assert kind == "data:image/png;base64"
        assert np.array_equal(glyph, recognizer.glyph(picture))


def test_describes_the_network(port):
    answer = json.loads(ask(port, "GET", "/network.json?x=1")[2])
    expected = {"checkpoint": "best.pt", "count": len(CHARACTERS), "size": 32}
    assert answer == expected | {"choices": ["all"], "reads": "server"}


def huge_png() -> bytes:
    """Return a PNG that claims 60,000 x 60,000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(
        ">I", zlib.crc32(chunk)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (png(np.full((60, 60), 255, np.uint8)), "blank"),
        (png(np.zeros((60, 60), np.uint8)), "blank"),
        (b"", "empty"),
        (b'{"strokes": []}', "not a picture"),
        (png(bitmap("大", 1300))[:50], "not a picture"),
        (huge_png(), "picture"),
    ],
)
def test_refuses_what_cannot_be_read(port, body, said):
    status, sentence = error_of(ask(port, "POST", "/read", body))
    assert status == 422 and said in sentence


def test_refuses_large_requests(port):
    status, sentence = error_of(ask(port, "POST", "/read", bytes(demo.MAX_BODY + 1)))
    assert status == 413 and "8,388,608" in sentence
    # All of it is sent before the answer is looked at.
    assert ask(port, "POST", "/read", bytes(100_000_000))[0] == 413
    head = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: %b\r\n\r\n"
    assert talk(port, head % (b"9" * 5000)).startswith(b"HTTP/1.1 413 ")
    assert talk(port, head % (b"0" * 5000)).startswith(b"HTTP/1.1 422 ")
    # Nothing is sent of the announced terabyte: the answer must not wait for it.
    head = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1099511627776\r\n\r\n"
    assert talk(port, head).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "header",
    [b"", b"Content-Length: abc\r\n", b"Content-Length: -5\r\n", b"Transfer-Encoding: chunked\r\n"],
)
def test_needs_a_length(port, header):
    answer = talk(port, b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 411 ") and answer.count(b"HTTP/1.1") == 1


def test_refuses_other_paths_and_methods(port):
    assert error_of(ask(port, "GET", "/../demo.py"))[0] == 404
    assert error_of(ask(port, "POST", "/upload", b"x"))[0] == 404
    for method, path in (("GET", "/read"), ("PUT", "/"), ("OPTIONS", "/read"), ("BREW", "/")):
        answer = ask(port, method, path)
        assert error_of(answer)[0] == 405
        assert answer[1]["Allow"] == ("POST" if path == "/read" else "GET, HEAD")


def test_survives_malformed_requests(port):
    for text in (b"\r\n\r\n", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02"):
        answer = talk(port, text)
        assert not answer or b'{"error": ' in answer
    cut = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nabc"
    assert talk(port, cut).startswith(b"HTTP/1.1 400 ")
    assert ask(port, "GET", "/network.json")[0] == 200


def test_knows_foreign_pages(port):
    picture = png(bitmap("大", 1300))
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1", ""):
        assert ask(port, "POST", "/read", picture, Host=host)[0] == 403
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}"):
        assert ask(port, "POST", "/read", picture, Host=host)[0] == 200
    mine = f"http://127.0.0.1:{port}"
    for origin, status in ((mine, 200), ("http://evil.example", 403), ("null", 403)):
        assert ask(port, "POST", "/read", picture, Origin=origin)[0] == status


def test_answers_many_at_once(port):
    pictures = [png(bitmap(character, 1300)) for character in CHARACTERS] * 4
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda picture: ask(port, "POST", "/read", picture), pictures))
    bodies = [json.loads(body)["readings"] for status, _, body in answers if status == 200]
    assert bodies == bodies[: len(CHARACTERS)] * 4


def test_answers_two_hundred_connections(port):
    waiting = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(200)]
    for connection in waiting:
        connection.sendall(b"GET /network.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in waiting)
    for connection in waiting:
        connection.close()


def test_bounds_the_bodies_that_are_held(port):
    head = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % demo.MAX_BODY
    held = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(9)]
    for connection in held:
        connection.sendall(head)
    time.sleep(0.5)
    answers = [connection for connection in held if readable(connection)]
    assert [connection.recv(12) for connection in answers] == [b"HTTP/1.1 503"]
    for connection in held:
        connection.close()
    time.sleep(0.5)
    assert ask(port, "POST", "/read", png(bitmap("大", 1300)))[0] == 200


def readable(connection: socket.socket, seconds: float = 0) -> bool:
    return bool(select.select([connection], [], [], seconds)[0])


def test_a_request_has_to_arrive_in_time_and_bounds(trained, monkeypatch):
    monkeypatch.setattr(demo, "REQUEST_SECONDS", 0.5)
    recognizer = Recognizer.from_checkpoint(trained / "best.pt")
    post = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
    lines = (b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 20)[: demo.MAX_HEAD]
    with demo.start("127.0.0.1", 0, recognizer, None) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for text, answer in ((b"GET /", b""), (post, b"HTTP/1.1 408"), (lines, b"HTTP/1.1 431")):
            with socket.create_connection(server.server_address, 1) as connection:
                connection.sendall(text)
                drops = 0  # of a client that is slow, but never silent
                while not readable(connection, 0.1) and drops < 30:
                    connection.sendall(b"a")
                    drops += 1
                assert connection.recv(12) == answer
        server.shutdown()


def test_a_connection_serves_many_requests_and_an_old_one_is_closed(port):
    request = b"GET /network.json HTTP/1.%d\r\nHost: localhost\r\n\r\n"
    assert talk(port, request % 1 * 3).count(b"HTTP/1.1 200") == 3
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(request % 0)
        assert b"".join(iter(lambda: connection.recv(65536), b"")).count(b"200 OK") == 1


def test_work_is_bounded_in_time_and_memory():
    with Bounded(time.sleep, seconds=0.5, memory=1 << 28) as bounded:
        assert bounded.call(0.01) is None
        with pytest.raises(TooMuch, match=r"0\.5 s"):
            bounded.call(60)
        assert bounded.call(0.01) is None
    with Bounded(bytearray, seconds=20, memory=1 << 28) as bounded:
        assert bounded.call(9) == bytearray(9)
        if sys.platform == "linux":
            with pytest.raises(TooMuch, match="memory"):
                bounded.call(1 << 30)
        assert bounded.call(9) == bytearray(9)
        with pytest.raises(ValueError):
            bounded.call(-1)
        bounded.process.kill()
        with pytest.raises(TooMuch):
            bounded.call(1)
        assert bounded.call(1) == bytearray(1)


def test_says_what_is_wrong_and_exits(port, trained, tmp_path, capsys):
    best = ["--checkpoint", str(trained / "best.pt")]
    for arguments, said in (
        (["--checkpoint", str(tmp_path / "none.pt")], "no such checkpoint"),
        ([*best, "--port", str(port)], "--port 0"),
        ([*best, "--port", "123456"], "--port 0"),
        ([*best, "--device", "tpu"], "--device"),
    ):
        assert demo.main(arguments) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("error: ") and said in told.err
        assert told.err.count("\n") == 1


# --- browser


@pytest.fixture(scope="module")
def running() -> Iterator:
    with chromium.launch() as browser:
        yield browser


@pytest.fixture
def visit(running, port) -> Iterator:
    """Open the page; afterwards nothing may have been complained of, or asked of others."""
    contexts, complaints = [], []

    def open_page(size=chromium.DESKTOP, tolerate="nothing", **options):
        viewport = {"width": size[0], "height": size[1]}
        context = running.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                any(text in message.text for text in (tolerate, "getImageData"))
                or complaints.append(message.text)
            ),
        )
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/")
        chromium.wait(page, "document.getElementById('network').textContent !== ''")
        return page

    asked: list[str] = []
    yield open_page
    for context in contexts:
        context.close()
    mine = (f"http://127.0.0.1:{port}/", "data:", "blob:")
    assert [url for url in asked if not url.startswith(mine)] == []
    assert complaints == []


def ink(page) -> int:
    """Count the inked pixels of the pad."""
    return page.evaluate(
        "() => { const c = document.getElementById('pad'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let n = 0;"
        "for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"
    )


def glyph_of(page) -> np.ndarray:
    """Return the glyph that the page shows."""
    data = page.locator("#glyph").get_attribute("src").partition(",")[2]
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), -1)


def as_written(character: str, size: int) -> np.ndarray:
    """Return the glyph of a character's strokes, drawn by OpenCV."""
    canvas = np.full((400, 400), 255, np.uint8)
    for line in chromium.layout(character):
        points = (line * 400).round().astype(np.int32)
        cv2.polylines(canvas, [points], False, 0, 16, cv2.LINE_AA)
    return to_glyph(canvas, size)


@needs_browser
def test_draw_and_read(visit, trained):
    recognizer = Recognizer.from_checkpoint(trained / "best.pt")
    page = visit()
    for character in CHARACTERS:
        chromium.draw(page, character)
        reading = chromium.settle(page)
        glyph = glyph_of(page)
        alike = np.corrcoef(glyph.ravel(), as_written(character, 32).ravel())[0, 1]
        assert alike > 0.8, character
        expected = recognizer.read(glyph[None])[0]
        assert reading == expected[0].character
        assert page.locator("#readings .han").all_text_contents()[: len(expected)] == [
            r.character for r in expected
        ]
        shares = page.locator("#readings .share").all_text_contents()
        assert float(shares[0].strip("%")) == pytest.approx(100 * expected[0].probability, abs=0.06)
        assert page.locator("#spoken").text_content().startswith(reading)
        page.get_by_role("button", name="Clear").click()
        assert chromium.settle(page) == EMPTY


@needs_browser
@pytest.mark.skipif(not (ROOT / DEFAULT_CHECKPOINT).is_file(), reason="no shipped weights")
def test_shipped_weights_read_what_is_drawn(running):
    page = running.new_page()
    right = 0
    characters = "永年国"
    with chromium.serve(ROOT / DEFAULT_CHECKPOINT) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        for character in characters:
            chromium.draw(page, character)
            right += chromium.settle(page) == character
            page.get_by_role("button", name="Clear").click()
    page.close()
    assert right >= len(characters) - 1


@needs_browser
def test_reads_while_the_pen_is_down(visit):
    page = visit()
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 190, steps=10)
    chromium.wait(page, "document.querySelector('#readings .han').textContent !== '\\u00a0'")
    assert page.locator("#spoken").text_content() == ""  # not in the middle of a stroke
    page.mouse.up()
    chromium.settle(page)


@needs_browser
def test_undo_and_clear(visit):
    page = visit()
    undo, clear = (page.get_by_role("button", name=name) for name in ("Undo", "Clear"))
    assert undo.is_disabled() and clear.is_disabled()
    chromium.draw(page, "十")
    both = chromium.settle(page)
    full = ink(page)
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
    page = visit()
    picture = png(255 - bitmap("口", 1300))  # light on dark
    path = tmp_path / "口.png"
    path.write_bytes(picture)
    expected = json.loads(ask(port, "POST", "/read", picture)[2])["readings"][0]["character"]
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
            [base64.b64encode(picture).decode(), event, field],
        )
        chromium.wait(page, "state.picture !== null")
        assert chromium.settle(page) == expected
    chromium.draw(page, "一")  # a drawing takes the picture's place
    assert page.evaluate("state.picture") is None
    chromium.settle(page)


@needs_browser
def test_copies_a_reading(visit, port):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    chromium.draw(page, "大")
    chromium.settle(page)
    readings = page.locator("#readings .han").all_text_contents()
    page.locator("#readings button").first.click()
    chromium.wait(page, "document.getElementById('status').textContent.startsWith('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == readings[0]
    page.keyboard.press("2")
    chromium.wait(page, f"document.getElementById('status').textContent.endsWith({readings[1]!r})")
    assert page.evaluate("navigator.clipboard.readText()") == readings[1]


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
        "late(new Response(JSON.stringify("
        "{readings: [{character: '错', probability: 1}], glyph: null, milliseconds: 1})))"
    )
    page.wait_for_timeout(100)
    assert chromium.settle(page) == shown != "错"


@needs_browser
def test_says_when_the_server_is_gone(visit):
    page = visit(tolerate="status of 502")
    page.route("**/read?*", lambda route: route.fulfill(status=502, body="<html>"))
    chromium.draw(page, "一")
    page.wait_for_selector("#status.error")
    assert "does not answer" in page.locator("#status").text_content()
    assert chromium.settle(page) == EMPTY


@needs_browser
def test_strokes_outlive_a_new_size(visit):
    page = visit(chromium.DESKTOP, device_scale_factor=2)
    chromium.draw(page, "口")
    chromium.settle(page)
    glyph = page.locator("#glyph").get_attribute("src")
    before = page.evaluate("[pad.width, pad.clientWidth]")
    page.set_viewport_size({"width": 390, "height": 844})
    chromium.wait(page, "pad.width === Math.round(pad.clientWidth * devicePixelRatio)")
    after = page.evaluate("[pad.width, pad.clientWidth]")
    assert before[0] == 2 * before[1] and after[0] == 2 * after[1] and after[0] != before[0]
    assert ink(page) > 0
    page.locator("#pen").press("ArrowRight")
    page.locator("#pen").press("ArrowLeft")
    chromium.settle(page)
    assert page.locator("#glyph").get_attribute("src") == glyph
    page.locator("#pen").press("End")
    chromium.settle(page)
    assert page.locator("#glyph").get_attribute("src") != glyph


@needs_browser
def test_one_finger_draws_and_a_second_does_not(visit):
    page = visit(chromium.PHONE, has_touch=True, is_mobile=True)
    box = page.locator("#pad").bounding_box()
    left, top = box["x"], box["y"]
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        places = [{"x": left + x, "y": top + y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (60, 100))
    for x in range(80, 300, 20):
        touch("touchMove", (x, 100))
    touch("touchStart", (280, 100), (100, 250))
    touch("touchMove", (290, 100), (200, 250))
    touch("touchEnd")
    assert chromium.settle(page) != EMPTY
    strokes = page.evaluate("state.strokes")
    assert len(strokes) == 1 and len(strokes[0]) > 5
    assert all(abs(y * box["height"] - 100) < 2 for _, y, _ in strokes[0])
    assert page.evaluate("scrollY") == 0


@needs_browser
@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        (chromium.PHONE, "light"),
        (chromium.PHONE, "dark"),
        (chromium.DESKTOP, "light"),
        (chromium.DESKTOP, "dark"),
        ((320, 640), "light"),
    ],
)
def test_fits_both_widths_and_schemes(visit, size, scheme):
    page = visit(size, color_scheme=scheme)
    chromium.draw(page, "大")
    chromium.settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    light = [
        np.mean([int(v) for v in re.findall(r"\d+", colour)[:3]])
        for colour in page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(pad).color]"
        )
    ]
    assert (light[0] > 200 and light[1] < 60) == (scheme == "light")
    assert (light[0] < 60 and light[1] > 200) == (scheme == "dark")
    readings = page.locator("#readings").bounding_box()
    assert readings["y"] + readings["height"] < size[1] or size[1] < 800


@needs_browser
def test_can_be_used_without_a_mouse(visit):
    page = visit()
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input:not([hidden]), canvas, img')]"
        ".filter(element => !(element.ariaLabel || element.alt || element.textContent.trim() ||"
        "element.labels?.[0]?.textContent.trim())).length"
    )
    assert unnamed == 0
    chromium.draw(page, "大")
    chromium.settle(page)
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.textContent || document.activeElement.id")
        )
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen[:4] == ["Undo", "Clear", "Picture…", "pen"]


@needs_browser
def test_narrows_the_classes_doubts_and_tells_what_was_left_out(running, doubting, tmp_path):
    path = tmp_path / "several.png"
    path.write_bytes(png(several()))
    page = running.new_page()
    with chromium.serve(doubting) as number:
        page.goto(f"http://127.0.0.1:{number}/")
        chromium.draw(page, "大")
        chromium.settle(page)
        status = page.locator("#status")
        assert status.text_content().startswith("Hardly a character. Read in ")
        assert chromium.narrow(page, "symbols") == set("12")
        assert chromium.narrow(page, "level1") == set("一十口人")
        assert chromium.narrow(page, "all") == set("一十口人12")
        page.locator("#file").set_input_files(path)
        chromium.wait(page, "state.picture !== null")
        chromium.settle(page)
        recognizer = Recognizer.from_checkpoint(doubting)
        notices = recognizer.recognize([several()])[0].notices
        assert all(f"{text[0].upper()}{text[1:]}. " in status.text_content() for text in notices)
        assert np.array_equal(glyph_of(page), recognizer.glyph(several()))
        page.close()


@needs_browser
def test_dropped_text_is_no_picture(visit, tmp_path):
    page = visit(tolerate="status of 422")
    path = tmp_path / "notes.txt"
    path.write_text("no picture")
    page.locator("#file").set_input_files(path)
    page.wait_for_selector("#status.error")
    assert "not a picture" in page.locator("#status").text_content()
