"""Draw a character in the browser and see how it is read while it grows.

    python demo.py                                        # then open the address it prints
    python demo.py --open --checkpoint runs/train/best.pt
    python demo.py --host 0.0.0.0                         # for a phone in the same network
    python demo.py --port 0                               # any free port

request            answer
GET /              the page: index.html, page.css and page.js of page/
GET /network.json  {"checkpoint", "count", "size", "choices", "reads"}: what the page has to know
POST /read         body: a picture file of at most 8 MiB, as `predict.py` reads it ->
                   {"readings": [{"character", "probability"}, ...], "glyph": "data:image/png;...",
                   "notices": ["...", ...], "milliseconds"}, glyph is what the network gets;
                   "character_score" and "is_character" where the network gives them
                   {"error": "..."} with status 4xx or 5xx where that fails
POST /read?classes=symbols   the same among some classes, one of "choices"

Pictures are opened in a process of its own, bounded in time and memory (jobs/bounded.py). The page
is served by the standard library: Gradio and the like bring a hundred megabytes of packages, fetch
fonts and scripts from the network, and send a drawing only when it is finished.
Left out: users, encryption, and whatever else a public service needs; put none on the Internet.
"""

import argparse
import base64
import contextlib
import http.client
import io
import ipaddress
import json
import math
import re
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import cv2
import numpy as np

import page
from config import add_arguments, add_checkpoint, default_checkpoint, from_arguments
from jobs.bounded import Bounded, TooMuch
from jobs.command import command
from picture import Proposals, decode_picture, find_proposals
from recognizer import Recognizer

MAX_BODY = 8 << 20  # bytes of a picture
MAX_HELD = 64 << 20  # bytes of all pictures that are on their way or waiting
MAX_CONNECTIONS = 256
MAX_HEAD = 1 << 17  # bytes of a request line and its headers
REQUEST_SECONDS = 20  # for a request to arrive, from its first byte
IDLE_SECONDS = 5  # that a silent client holds a thread
PICTURE_SECONDS = 10  # to open a picture
PICTURE_MEMORY = 1 << 30  # bytes, to open a picture
READINGS = 10
LOOK, SEND = "GET, HEAD", "POST"
METHODS = {"/": LOOK, "/network.json": LOOK, "/read": SEND} | {f"/{n}": LOOK for n in page.FILES}


def open_picture(data: bytes, size: int) -> Proposals:
    """Return the proposals of a picture file; ValueError if there is none."""
    try:
        return find_proposals(decode_picture(data), size)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        raise ValueError("picture: of a kind that cannot be read; try PNG") from None


class Refusal(Exception):
    """A request that gets no answer: status and a sentence that says why."""


class Server(ThreadingHTTPServer):
    """One network, read by one request at a time, so that memory stays bounded."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS  # connections that wait to be accepted

    def __init__(self, host: str, port: int, recognizer: Recognizer, opener: Bounded) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.network, self.opener = recognizer.network, opener
        names = page.choices(self.network.classes)
        self.recognizers = {name: Recognizer(self.network, name) for name in names}
        self.names = {"localhost", socket.gethostname().lower(), host.lower()}
        self.connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.reading, self.holding, self.held = threading.Lock(), threading.Lock(), 0
        super().__init__((host, port), Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Start a thread for a connection, when there are not too many already."""
        self.connections.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Count the bytes of a body while it is there; refuse it if too many are there already."""
        with self.holding:
            if self.held + count > MAX_HELD:
                reason = "too many pictures at once; try again"
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, reason)
            self.held += count
        try:
            yield
        finally:
            with self.holding:
                self.held -= count

    def handle_error(self, request: object, client_address: object) -> None:
        """Say in a line what broke a connection; nothing if the client has gone."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)

    @property
    def url(self) -> str:
        """Return the address to open; that of this machine where the server listens on all."""
        host, port = self.server_address[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def read(self, body: bytes, query: str) -> dict:
        """Return the answer to a picture file; ValueError if it is none, blank or too large."""
        which = parse_qs(query).get("classes", ["all"])[-1]
        if which not in self.recognizers:
            raise ValueError(f"classes is {which[:80]!r}, expected {' or '.join(self.recognizers)}")
        with self.reading:
            began = time.perf_counter()
            try:
                found = self.opener.call(body, self.network.size)
            except TooMuch as error:
                raise ValueError(f"the picture {error}; crop it to the character") from None
            readings = self.recognizers[which].read_proposals([found.glyphs], READINGS)[0]
        glyph = found.glyphs[readings.proposal]
        png = base64.b64encode(cv2.imencode(".png", glyph)[1]).decode()
        return {
            "readings": [reading._asdict() for reading in readings],
            "glyph": f"data:image/png;base64,{png}",
            "notices": found.notices(readings.proposal),
            "milliseconds": round(1000 * (time.perf_counter() - began), 1),
        } | readings.score


class Incoming(io.RawIOBase):
    """What a client sends, as long and as much as a request may take."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def begin(self) -> None:
        """Wait for a request."""
        self.end, self.room = None, MAX_HEAD

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Receive some bytes; raise TimeoutError when the time is over."""
        left = IDLE_SECONDS if self.end is None else self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self.room <= 0:  # the base class answers with status 431
            raise http.client.HTTPException(f"more than {MAX_HEAD:,} bytes")
        self.connection.settimeout(left)
        try:
            count = self.connection.recv_into(buffer)
        finally:
            self.connection.settimeout(IDLE_SECONDS)
        self.end = self.end or time.monotonic() + REQUEST_SECONDS
        self.room -= count
        return count


class Handler(BaseHTTPRequestHandler):
    """Answer one connection; see the module's table."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(Incoming(self.connection))

    def handle_one_request(self) -> None:
        self.rfile.raw.begin()
        self.headers = None
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answer a request of any method, whatever goes wrong with JSON."""
        closing = self.close_connection
        self.close_connection = True  # until it is known where the next request begins
        try:
            length = self.length()
            with self.server.hold(length):
                body = self.body(length)
                self.close_connection = closing
                self.check_origin()
                self.route(body)
        except Refusal as refusal:
            self.send_error(*refusal.args)
            if self.close_connection:
                self.discard()
        except ValueError as error:
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except OSError:
            self.close_connection = True  # the client has gone
        except Exception as error:  # the server outlives whatever a picture does to it
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"failed: {type(error).__name__}")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def route(self, body: bytes) -> None:
        """Answer what is asked for."""
        path, _, query = self.path.partition("?")
        if path not in METHODS:
            raise Refusal(HTTPStatus.NOT_FOUND, f"nothing at {path[:80]}")
        if self.command not in METHODS[path].split(", "):
            reason = f"{path} takes {METHODS[path]}, not {self.command}"
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, reason)
        if path == "/read":
            self.send_json(self.server.read(body, query))
        elif path == "/network.json":
            network = self.server.network
            name = Path(network.source).name
            self.send_json(page.describe("server", name, network.classes, network.size))
        else:
            name = path[1:] or "index.html"
            self.send(HTTPStatus.OK, page.FILES[name], (page.HERE / name).read_bytes(), {})

    def length(self) -> int:
        """Return how many bytes the body has; refuse it where that is not said, or too many."""
        length = self.headers.get("Content-Length", "0" if self.command != "POST" else "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the request has no valid Content-Length")
        if len(length.lstrip("0")) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
            limit = f"the picture is too large: at most {MAX_BODY:,} bytes are read"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit)
        return int(length)

    def body(self, length: int) -> bytes:
        """Return the body of the request; refuse it if it ends early or takes too long."""
        self.rfile.raw.room += length
        try:
            data = self.rfile.read(length)
        except TimeoutError:
            reason = f"the request took more than {REQUEST_SECONDS} s to arrive"
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, reason) from None
        if len(data) < length:
            raise Refusal(HTTPStatus.BAD_REQUEST, "the request ended before its Content-Length")
        return data

    def discard(self) -> None:
        """Read away what is left of a body: a client sends all before it looks for an answer."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.rfile.raw.room = math.inf
            while self.rfile.read1(1 << 16):
                pass

    def check_origin(self) -> None:
        """Refuse what a foreign page sends: one whose name was bound to this address, or a form.

        DNS rebinding needs a name: a Host that is an address or a name of this machine is safe.
        """
        host = self.headers.get("Host", "")
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if name not in self.server.names:
                said = f"the host name {name[:80]!r} is not this machine's; open {self.server.url}"
                raise Refusal(HTTPStatus.FORBIDDEN, said) from None
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise Refusal(HTTPStatus.FORBIDDEN, "the request comes from another page")

    def send_json(self, content: dict, status: int = HTTPStatus.OK, **headers: str) -> None:
        data = json.dumps(content, ensure_ascii=False).encode()
        self.send(status, "application/json; charset=utf-8", data, headers)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a sentence as JSON; the base class calls this for malformed requests."""
        message = message or explain or HTTPStatus(code).phrase
        if code == HTTPStatus.NOT_IMPLEMENTED:  # a method that has no do_...
            code = HTTPStatus.METHOD_NOT_ALLOWED
        refused = code == HTTPStatus.METHOD_NOT_ALLOWED
        headers = {"Allow": METHODS.get(self.path, "GET, HEAD, POST")} if refused else {}
        if code >= HTTPStatus.INTERNAL_SERVER_ERROR or self.headers is None:
            self.close_connection = True
        with contextlib.suppress(OSError):  # the client has gone
            self.send_json({"error": message}, code, **headers)

    def send(self, status: int, kind: str, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": "frame-ancestors 'none'",  # the rest stands in the page
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if self.close_connection:
            fixed["Connection"] = "close"
        for key, value in (fixed | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests: there are many while one draws."""


def start(host: str, port: int, recognizer: Recognizer, opener: Bounded) -> Server:
    """Open the port, and read once, so that the first stroke does not wait."""
    size = recognizer.network.size
    recognizer.read(np.zeros((1, size, size), np.uint8))
    try:
        return Server(host, port, recognizer, opener)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        said = f"cannot listen on {host} port {port}: {reason}; --port 0 takes any free port"
        raise ValueError(said) from None


@command
def main(argv: list[str] | None = None) -> int:
    """Serve the page as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Read characters as they are drawn in a browser.")
    add_checkpoint(parser)
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1",
        help="address to listen on; 0.0.0.0 opens the page to the whole network "
        "(default: %(default)s, this machine alone)")  # fmt: skip
    add("--port", type=int, default=8000, help="0: any free port (default: %(default)s)")
    add("--open", action="store_true", help="open the page in the browser")
    add_arguments(parser, ["device"])
    given = parser.parse_args(argv)
    checkpoint = given.checkpoint or default_checkpoint()
    device = from_arguments(given).device
    with Bounded(open_picture, PICTURE_SECONDS, PICTURE_MEMORY) as opener:
        recognizer = Recognizer.from_checkpoint(checkpoint, device)
        with start(given.host, given.port, recognizer, opener) as server:
            print(server.url, flush=True)
            if given.checkpoint is None:
                print(f"reads with {checkpoint}", file=sys.stderr)
            if given.open:
                webbrowser.open(server.url)
            server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
