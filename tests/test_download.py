"""The download, answer by answer: no byte twice, nothing taken for whole that is not."""

import email.message
import hashlib
import http.client
import io
import urllib.error

import pytest
from alz_writer import zipped

from hwdb import download, sets

URL = "http://a.example/x.zip"
REST = {"Content-Range": "bytes 2-3/4", "Content-Length": "2"}
THREE = {"Content-Length": "3"}


class Response(io.BytesIO):
    """A body with a status and headers."""


class Site:
    """Answers in turn, each (status, headers, body) or an error; keeps what was asked."""

    def __init__(self, answers):
        self.answers, self.asked, self.slept = list(answers), [], []

    def open(self, request, timeout):
        assert timeout == download.TIMEOUT
        self.asked.append((request.full_url, request.get_header("Range")))
        assert request.get_header("User-agent") == "process_gnt"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = answer
        response = Response(body)
        response.status, response.headers = status, headers
        return response


@pytest.fixture
def site(monkeypatch):
    def answer(*answers) -> Site:
        found = Site(answers)
        monkeypatch.setattr(download, "_opener", lambda: found)
        monkeypatch.setattr(download.time, "sleep", found.slept.append)
        return found

    return answer


def refusal(code: int, **headers: str) -> urllib.error.HTTPError:
    message = email.message.Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError(URL, code, "no", message, None)


@pytest.mark.parametrize(
    ("have", "answer", "then", "whole"),
    [
        (b"", (200, {"Content-Length": "4"}, b"abcd"), b"abcd", True),
        (b"", (200, {"Content-Length": "5"}, b"abcd"), b"abcd", False),
        (b"", (200, {"Content-Length": "?"}, b"abcd"), b"abcd", True),
        (b"", (200, {}, b"abcd"), b"abcd", True),
        (b"ab", (206, REST, b"cd"), b"abcd", True),
        (b"ab", (206, REST | {"Content-Length": "4"}, b"cd"), b"abcd", False),
        (b"ab", (206, THREE | {"Content-Range": "bytes 1-3/4"}, b"xyz"), b"xyz", True),
        (b"ab", (206, THREE, b"xyz"), b"xyz", True),
        (b"ab", (200, THREE | {"Content-Range": "bytes 2-3/4"}, b"xyz"), b"xyz", True),
        (b"ab", refusal(416, Content_Range="bytes */2"), b"ab", True),
        (b"ab", refusal(416, Content_Range="bytes */3"), None, False),
        (b"ab", refusal(416), None, False),
    ],
)  # fmt: skip
def test_what_an_answer_does_to_the_part(tmp_path, site, have, answer, then, whole):
    part = tmp_path / "x.zip.part"
    if have:
        part.write_bytes(have)
    server = site(answer)
    assert download._continue(URL, part, len(have)) is whole
    assert (part.read_bytes() if part.exists() else None) == then
    assert server.asked == [(URL, f"bytes={len(have)}-" if have else None)]


def test_other_refusals_and_the_disk_are_errors(tmp_path, site):
    site(refusal(404))
    with pytest.raises(urllib.error.HTTPError):
        download._continue(URL, tmp_path / "x.part", 0)
    site((200, {}, b"abcd"))
    with pytest.raises(OSError) as caught:
        download._continue(URL, tmp_path / "none" / "x.part", 0)
    assert caught.value.filename == str(tmp_path / "none" / "x.part")


def test_a_transfer_goes_on_while_bytes_come(tmp_path, site):
    part = tmp_path / "x.zip.part"
    reset = urllib.error.URLError("reset")
    server = site(
        reset, refusal(503), http.client.IncompleteRead(b""),  # three in a row bring nothing
        (200, {"Content-Length": "4"}, b"ab"),
        reset, reset, reset,
        (206, REST, b"cd"),
    )  # fmt: skip
    download._transfer(URL, part)
    assert part.read_bytes() == b"abcd" and not server.answers
    assert [span for _, span in server.asked] == [None] * 4 + ["bytes=2-"] * 4
    assert server.slept == [1, 2, 4, 0.5, 1, 2, 4]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([urllib.error.URLError("reset")] * 4, "reset"),
        ([refusal(500)] * 4, "500"),
        ([refusal(499)], "499"),
        ([(200, {"Content-Length": "4"}, b"")] * 4, "broke off"),
        ([OSError(28, "No space left", "/x")], "/x"),
    ],
)
def test_a_transfer_gives_up(tmp_path, site, answers, said):
    server = site(*answers)
    with pytest.raises(OSError, match=said):
        download._transfer(URL, tmp_path / "x.part")
    assert not server.answers and len(server.slept) == len(answers) - 1


GOOD, BAD = zipped({"a.gnt": b"x" * 99}), b"a page"


@pytest.fixture
def fetched(monkeypatch):
    """Give what addresses answer; keep the addresses that were asked."""

    def set_up(answers: dict[str, object]) -> list[str]:
        asked = []

        def transfer(url, part):
            asked.append(url)
            if isinstance(answer := answers.get(url, refusal(404)), Exception):
                raise answer
            part.write_bytes(answer)

        monkeypatch.setattr(download, "_transfer", transfer)
        return asked

    return set_up


EDITIONS = (
    sets.Edition(("http://a/", "http://b/"), ("1.zip", "2.zip")),
    sets.Edition(("http://c/",), ("old.zip",)),
)


def test_editions_and_addresses_are_tried_in_turn(tmp_path, fetched, monkeypatch, capsys):
    monkeypatch.setitem(download.EDITIONS, "1.1", EDITIONS)
    asked = fetched({"http://b/1.zip": GOOD, "http://a/2.zip": BAD, "http://c/old.zip": GOOD})
    folder = tmp_path / "new" / "folder"
    assert download.download_set("1.1", folder) == [folder / "old.zip"]
    assert asked == ["http://a/1.zip", "http://b/1.zip", "http://a/2.zip", "http://b/2.zip",
                     "http://c/old.zip"]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["1.zip", "old.zip"]
    asked = fetched({"http://b/2.zip": GOOD})  # what is there is not fetched again
    assert download.download_set("1.1", folder) == [folder / "1.zip", folder / "2.zip"]
    assert asked == ["http://a/2.zip", "http://b/2.zip"]
    assert f"{folder / '1.zip'} is already there" in capsys.readouterr().err
    (folder / "1.zip").write_bytes(BAD)
    asked = fetched({"http://m/x/1.zip": GOOD})
    assert download.download_set("1.1", folder, "http://m/x/")[0].read_bytes() == GOOD
    assert asked == ["http://m/x/1.zip"]
    assert "1.zip is damaged" in capsys.readouterr().err


def test_all_answers_are_told(tmp_path, fetched, monkeypatch):
    monkeypatch.setitem(download.EDITIONS, "1.1", EDITIONS)
    monkeypatch.setitem(download.MD5, "old.zip", hashlib.md5(GOOD).hexdigest())
    failures = {
        "http://a/1.zip": http.client.BadStatusLine("?"),
        "http://b/1.zip": urllib.error.URLError(TimeoutError()),
        "http://c/old.zip": GOOD + b"?",
    }
    fetched(failures)
    with pytest.raises(OSError) as caught:
        download.download_set("1.1", tmp_path)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[1] == "http://a/1.zip: ?" and lines[2].startswith("http://b/1.zip: ")
    digest = hashlib.md5(GOOD).hexdigest()
    assert lines[3] == f"http://c/old.zip: the file has not the MD5 {digest}"
    assert lines[4].endswith(f"{tmp_path}/ as it is,") and not list(tmp_path.iterdir())
    fetched({"http://a/1.zip": OSError(28, "No space left", "/x")})
    with pytest.raises(OSError, match="No space left: '/x'"):
        download.download_set("1.1", tmp_path)
    fetched({"http://a/1.zip": OSError(5, "Input/output error")})
    with pytest.raises(OSError, match="a/1.zip: Input/output error"):
        download.download_set("1.1", tmp_path)


def test_the_md5_is_that_of_all_bytes(tmp_path, monkeypatch):
    data = bytes(range(256)) * 5000  # more than is read at once
    (tmp_path / "x.zip").write_bytes(data)
    monkeypatch.setitem(download.MD5, "known.zip", hashlib.md5(data).hexdigest())
    assert download._sound(tmp_path / "x.zip", "known.zip")
    assert not download._sound(tmp_path / "x.zip")  # not known, and no archive
