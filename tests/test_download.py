"""The download: no byte twice, nothing accepted that is not whole, and what the user is told."""

import hashlib
import http.server
import threading

import pytest
from alz_writer import zipped
from conftest import call_script
from test_process_gnt import check, expected, gnt_of

from hwdb import download, sets

NAME = "competition-gnt.zip"  # one archive without a known MD5
GOOD = zipped({"C001-f-f.gnt": gnt_of(1)}, 0)
PLAIN = {"Content-Length": str(len(GOOD))}


class Site(http.server.BaseHTTPRequestHandler):
    """A server of `files` that supports ranges, and breaks off after `step` bytes of each answer.

    `answers` (status, headers, body) come first. `requests` records path and range.
    """

    files: dict[str, bytes]
    answers: list[tuple[int, dict, bytes]]
    requests: list[tuple[str, str | None]]
    step = 1 << 30

    def do_GET(self):
        span, name = self.headers.get("Range"), self.path.rpartition("/")[2]
        self.requests.append((name, span))
        if self.answers:
            return self.answer(*self.answers.pop(0))
        data = self.files.get(name)
        if data is None:
            return self.answer(404, {}, b"")
        begin = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if begin >= len(data):
            return self.answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers = {"Content-Length": str(len(data) - begin)}
        if span:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self.answer(206 if span else 200, headers, data[begin : begin + self.step])

    def answer(self, status: int, headers: dict, body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    handler = type("Handler", (Site,), {"requests": [], "files": {NAME: GOOD}, "answers": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_address[1]}/pub"
    yield handler
    server.shutdown()
    server.server_close()


def fetch(site, folder):
    return download.download_set("competition", folder, site.url)


def test_download_resumes_and_converts(tmp_path, site):
    site.step = 2000
    out = tmp_path / "data"
    arguments = ["--download", "--set", "competition", "--mirror", site.url, "--out", out]
    done = call_script("process_gnt.py", *arguments, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert (out / NAME).read_bytes() == GOOD
    spans = [span for _, span in site.requests]
    assert spans == [None, *(f"bytes={at}-" for at in range(2000, len(GOOD), 2000))]
    assert len(done.stderr.splitlines()) == 1, "attempts are not told one by one"
    check(out, expected("test", "C001", 1))
    before = len(site.requests)
    done = call_script("process_gnt.py", *arguments, "--workers", 1)
    assert done.returncode == 0 and "is already there" in done.stderr
    assert len(site.requests) == before


@pytest.mark.parametrize(
    ("have", "answers", "spans"),
    [
        (100, [], ["bytes=100-"]),
        (len(GOOD), [], []),  # complete, but not yet renamed
        (len(GOOD) + 9, [], [f"bytes={len(GOOD) + 9}-", None]),  # another file
        (100, [(200, PLAIN, GOOD)], ["bytes=100-"]),  # ranges are not supported
        (100, [(206, PLAIN | {"Content-Range": "bytes 0-99/*"}, GOOD)], ["bytes=100-"]),
        (0, [(200, {}, GOOD)], [None]),  # without a length
        (0, [(503, {}, b""), (200, PLAIN, GOOD[:50]), (503, {}, b""), (503, {}, b"")],
         [None, None, "bytes=50-", "bytes=50-", "bytes=50-"]),
    ],
)  # fmt: skip
def test_a_part_is_continued_whatever_is_answered(tmp_path, site, have, answers, spans):
    (tmp_path / f"{NAME}.part").write_bytes(GOOD[:have] if have <= len(GOOD) else bytes(have))
    site.answers[:] = answers
    assert fetch(site, tmp_path) == [tmp_path / NAME]
    assert (tmp_path / NAME).read_bytes() == GOOD
    assert [span for _, span in site.requests] == spans


@pytest.mark.parametrize("bad", [b"<html>come back tomorrow</html>", GOOD[:-1], b""])
def test_only_whole_archives_are_accepted(tmp_path, site, bad, capsys):
    site.files = {NAME: bad}
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch(site, tmp_path)
    assert "not the whole archive" in capsys.readouterr().err or not bad
    assert not (tmp_path / NAME).exists()
    (tmp_path / NAME).write_bytes(bad)
    site.files = {NAME: GOOD}
    fetch(site, tmp_path)
    assert (tmp_path / NAME).read_bytes() == GOOD


def test_md5_editions_and_addresses_are_tried_in_turn(tmp_path, site, monkeypatch, capsys):
    closed, data = "http://127.0.0.1:9/", bytes(range(256)) * 5000
    new = sets.Edition((closed, site.url + "/"), ("1.zip", "2.zip"))
    old = sets.Edition((site.url + "/",), ("old.zip",))
    monkeypatch.setitem(download.EDITIONS, "1.1", (new, old))
    monkeypatch.setitem(download.MD5, "old.zip", hashlib.md5(data).hexdigest())
    site.files = {"1.zip": GOOD, "old.zip": data[:-1]}
    with pytest.raises(OSError, match=rf"{sets.PAGE}.* run: python process_gnt.py {tmp_path}"):
        download.download_set("1.1", tmp_path)
    first, *lines = capsys.readouterr().err.splitlines()
    assert (
        f"HWDB 1.1 (2.3 GB) into {tmp_path}" in first and lines[0] == "no address has all archives:"
    )
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [
        f"{closed}1.zip", f"{closed}2.zip", f"{site.url}/2.zip", f"{site.url}/old.zip"
    ]  # fmt: skip
    assert "404" in lines[3] and "not the whole archive" in lines[4]
    site.files["old.zip"] = data
    assert download.download_set("1.1", tmp_path) == [tmp_path / "old.zip"]
    site.files = {"2.zip": GOOD}
    assert download.download_set("1.1", tmp_path) == [tmp_path / "1.zip", tmp_path / "2.zip"]


def test_a_transfer_that_brings_nothing_is_given_up(tmp_path, site, capsys):
    site.step = 0
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch(site, tmp_path)
    assert "broke off" in capsys.readouterr().err and len(site.requests) == 3
    site.files = {}
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch(site, tmp_path)
    assert len(site.requests) == 4  # a refusal is final


def test_neither_files_nor_ftp_are_fetched(tmp_path, site, capsys):
    done = call_script("process_gnt.py", "--mirror", tmp_path.as_uri(), "--out", tmp_path / "out")
    assert done.returncode == 2 and "expected an address with http://" in done.stderr
    site.answers[:] = [(302, {"Location": "ftp://127.0.0.1:9/a.zip"}, b"")] * 3
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch(site, tmp_path)
    assert "unknown url type: ftp" in capsys.readouterr().err
