"""Draw a character in the browser and see its reading change with every stroke.

    python demo.py --open                                 # opens the page in the browser
    python demo.py --checkpoint runs/train/best.pt        # prints its address
    python demo.py --host 0.0.0.0                         # for a phone in the same network
    python demo.py --port 0                               # any free port

request            answer
GET /              the page: index.html, page.css and page.js of page/
GET /network.json  {"summary", "size", "choices", "reads"}: what the page shows of the network
POST /read         body: a picture file of at most 8 MiB, read as predict.py reads it ->
                   {"readings": [{"character", "probability"}, ...], "notices": ["...", ...],
                   "glyph": input of the network, "view": what of the picture was left out,
                   "milliseconds"}; both pictures are data URLs, and view is null if all ink was
                   kept; "character_score" and "is_character" if the network has them
                   {"error": "..."} with status 4xx or 5xx if that fails
POST /read?classes=symbols   reads some classes only, one of "choices"

One picture is read at a time. Left out: users, encryption, protection against load. The page is for
this computer and people you trust; do not expose it to the Internet (SECURITY.md).
"""

import argparse
import base64
import ipaddress
import json
import re
import socket
import sys
import threading
import time
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np

import page
from config import add_arguments, add_checkpoint, default_checkpoint, from_arguments
from jobs.command import command, printable
from picture import cv2, decode_picture
from recognizer import Recognizer

MAX_BODY = 8 << 20  # bytes of a picture file
SILENCE = 20  # seconds after which a silent connection is closed
READINGS = 10
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'none'",  # index.html has the rest
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Refusal(Exception):
    """A request that is not answered: the status and a sentence with the reason."""


class Server(ThreadingHTTPServer):
    """Serves the page and reads pictures with one network."""

    daemon_threads = True

    def __init__(self, host: str, port: int, recognizer: Recognizer) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.network, self.reading = recognizer.network, threading.Lock()
        choices = page.choices(self.network.classes)
        self.recognizers = {name: Recognizer(self.network, name) for name in choices}
        self.names = {"localhost", socket.gethostname().lower(), host.lower()}
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        """The address to open; this machine's if the server listens on all interfaces."""
        host, port = self.server_address[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print an error in one line; nothing if the client has gone."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)

    def read(self, body: bytes, query: str) -> dict:
        """Return the answer to a picture file; ValueError if it cannot be read."""
        which = parse_qs(query).get("classes", ["all"])[-1]
        recognizer = self.recognizers.get(which)
        if recognizer is None:
            raise ValueError(f"classes is {which[:80]!r}, expected {' or '.join(self.recognizers)}")
        with self.reading:
            began, notices = time.perf_counter(), []
            picture = decode_picture(body, notices=notices)
            readings = recognizer.recognize([picture], READINGS)[0]
            if readings.error:
                raise ValueError(readings.error)
            milliseconds = round(1000 * (time.perf_counter() - began), 1)
            found, index = recognizer.find(picture), readings.proposal
        return {
            "readings": [reading._asdict() for reading in readings],
            "notices": [*notices, *readings.notices],
            "glyph": data_url(found.glyphs[index]),
            "view": data_url(found.view(index)) if index else None,
            "milliseconds": milliseconds,
        } | readings.score


def data_url(picture: np.ndarray) -> str:
    """Return a picture as a PNG in a URL."""
    return f"data:image/png;base64,{base64.b64encode(cv2.imencode('.png', picture)[1]).decode()}"


class Handler(BaseHTTPRequestHandler):
    """Answer the requests of a connection; see the module's table."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = SILENCE
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer GET and POST, or send a sentence with the reason why not."""
        try:
            self.check_origin()
            content = self.read_picture() if self.command == "POST" else self.find_file()
        except Refusal as refusal:
            self.send_error(*refusal.args)
            while self.rfile.read(1 << 16):
                pass  # a client reads the answer only after sending its whole request
        except ValueError as error:
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        else:
            self.send(HTTPStatus.OK, content)

    do_POST = do_GET

    def find_file(self) -> Path | dict:
        """Return a file of the page, or the content of network.json."""
        name = self.path.partition("?")[0][1:] or "index.html"
        if name == "network.json":
            network = self.server.network
            return page.describe("server", network.summary, network.classes, network.size)
        if name not in page.FILES:
            raise Refusal(HTTPStatus.NOT_FOUND, f"nothing at /{name[:80]}")
        return page.HERE / name

    def read_picture(self) -> dict:
        """Return the answer to a picture."""
        path, _, query = self.path.partition("?")
        if path != "/read":
            raise Refusal(HTTPStatus.NOT_FOUND, f"pictures go to /read, not to {path[:80]}")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the request has no valid Content-Length")
        if int(length) > MAX_BODY:
            limit = f"the picture is too large: at most {MAX_BODY:,} bytes are read"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the request ended before its Content-Length")
        return self.server.read(body, query)

    def check_origin(self) -> None:
        """Refuse requests of other pages: by DNS rebinding, which needs a name, or by a form."""
        host = self.headers.get("Host", "")
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if name not in self.server.names:
                reason = f"{name[:80]!r} is not a name of this machine; open {self.server.url}"
                raise Refusal(HTTPStatus.FORBIDDEN, reason) from None
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise Refusal(HTTPStatus.FORBIDDEN, "the request comes from another page")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send a sentence as JSON and close; the base class calls this for malformed requests."""
        self.close_connection = True  # the rest of the request is not answered
        self.send(code, {"error": message or HTTPStatus(code).phrase})

    def send(self, status: int, content: Path | dict) -> None:
        """Send a file of the page, or an object as JSON."""
        if isinstance(content, Path):
            kind, data = page.FILES[content.name], content.read_bytes()
        else:
            kind = "application/json; charset=utf-8"
            data = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        for key, value in HEADERS.items():
            self.send_header(key, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: a drawing makes many requests."""


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
    device = from_arguments(given).device
    recognizer = Recognizer.from_checkpoint(given.checkpoint or default_checkpoint(), device)
    print(printable(recognizer.network.summary), file=sys.stderr)
    size = recognizer.network.size
    recognizer.read([np.zeros((1, size, size), np.uint8)])  # the first reading takes longer
    try:
        server = Server(given.host, given.port, recognizer)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"cannot listen on {given.host} port {given.port}: {reason}"
        raise ValueError(f"{problem}; --port 0 takes any free port") from None
    with server:
        print(server.url, flush=True)
        if given.open:
            webbrowser.open(server.url)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
