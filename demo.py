"""Draw a character in the browser; the prediction is updated with every stroke.

    python demo.py --open                                 # opens the page in the browser
    python demo.py --checkpoint runs/train/best.pt        # prints its address
    python demo.py --host 0.0.0.0                         # for a phone on the same network

request            answer
GET /              the page: index.html, page.css and page.js of page/
GET /network.json  {"summary", "size", "reads"}: what the page shows of the network
POST /read         body: a picture file of at most 8 MiB, read as predict.py reads it ->
                   {"readings": [{"character", "probability"}, ...], "notices": ["...", ...],
                   "glyph": input of the network, "view": the picture with what was left out in
                   red, "milliseconds"}; glyph and view are data URLs, view is null if all ink
                   was kept; "character_score" and "is_character" if the network has them;
                   {"error": "..."} with status 4xx if that fails

One picture is processed at a time. There are no user accounts, no encryption and no protection
against overload: do not expose the page to the Internet (SECURITY.md).
"""

import argparse
import base64
import json
import os
import re
import socket
import sys
import threading
import time
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

import page
from config import add_arguments, add_checkpoint, default_checkpoint, from_arguments
from jobs.command import command, printable, sentence
from picture import cv2, decode_picture
from recognizer import Recognizer

MAX_BODY = 8 << 20  # bytes of a picture file
SILENCE = 20  # seconds after which a silent connection is closed
READINGS = 10
JSON = "application/json; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # index.html has the rest
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Serves the page and reads pictures with one network."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there two servers could share a port

    def __init__(self, host: str, port: int, recognizer: Recognizer) -> None:
        self.recognizer, self.reading = recognizer, threading.Lock()
        name = socket.gethostname().lower()
        self.names = {"localhost", name, f"{name}.local", host.lower()}
        super().__init__((host, port), Handler)
        if host == "0.0.0.0":  # the address in the network; connecting by UDP sends nothing
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                host = "127.0.0.1" if udp.connect_ex(("192.0.2.1", 9)) else udp.getsockname()[0]
        self.url = f"http://{host}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print an error in one line; nothing if the client has gone."""
        if not isinstance(error := sys.exc_info()[1], OSError):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)

    def read(self, body: bytes) -> dict:
        """Return the answer to a picture file; ValueError if it cannot be read."""
        with self.reading:
            began, notices = time.perf_counter(), []
            picture = decode_picture(body, notices=notices)
            readings = self.recognizer.recognize([picture], READINGS)[0]
            if readings.error:
                raise ValueError(readings.error)
            milliseconds = round(1000 * (time.perf_counter() - began), 1)
            found, index = self.recognizer.find(picture), readings.proposal
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
    """Answer one request; see the module's table."""

    server: Server
    timeout = SILENCE

    def do_GET(self) -> None:
        """Send a file of the page, or the content of network.json."""
        name = self.path.partition("?")[0][1:] or "index.html"
        network = self.server.recognizer.network
        if self.is_foreign():
            self.refuse(HTTPStatus.FORBIDDEN, f"not a request of this page; open {self.server.url}")
        elif name == "network.json":
            self.send({"reads": "server", "summary": network.summary, "size": network.size})
        elif name in page.FILES:
            self.send((page.HERE / name).read_bytes(), page.FILES[name])
        else:
            self.refuse(HTTPStatus.NOT_FOUND, f"nothing at /{name[:80]}")

    def do_POST(self) -> None:
        """Read a picture."""
        length = self.headers.get("Content-Length", "")
        if self.is_foreign():
            self.refuse(HTTPStatus.FORBIDDEN, f"not a request of this page; open {self.server.url}")
        elif self.path != "/read":
            self.refuse(HTTPStatus.NOT_FOUND, f"pictures go to /read, not to {self.path[:80]}")
        elif not re.fullmatch("[0-9]{1,18}", length):
            self.refuse(HTTPStatus.LENGTH_REQUIRED, "the request has no valid Content-Length")
        elif int(length) > MAX_BODY:
            limit = f"the picture is too large: at most {MAX_BODY:,} bytes are read"
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit)
        else:
            try:
                self.send(self.server.read(self.rfile.read(int(length))))
            except ValueError as error:
                self.refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    def is_foreign(self) -> bool:
        """Return whether another page sends the request, maybe by a name that it leads here."""
        host = self.headers.get("Host", "")
        name = host.rpartition(":")[0] or host
        known = name.lower() in self.server.names or re.fullmatch("[0-9.]+", name)
        return not known or self.headers.get("Origin", f"http://{host}") != f"http://{host}"

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """Send a sentence with the reason, to be read once the whole request is sent."""
        self.send({"error": reason}, status=status)
        while self.rfile.read(1 << 16):
            pass

    def send(self, content: bytes | dict, kind: str = JSON, status: int = HTTPStatus.OK) -> None:
        """Send a file, or an object as JSON."""
        if isinstance(content, dict):
            content = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        for key, value in HEADERS.items():
            self.send_header(key, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: a drawing makes many requests."""


@command
def main(argv: list[str] | None = None) -> int:
    """Serve the page as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Recognize characters drawn in a web page.")
    add_checkpoint(parser)
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1",
        help="address to listen on; 0.0.0.0: all interfaces (default: %(default)s)")  # fmt: skip
    add("--port", type=int, default=8000, metavar="N",
        help="port; 0: any free port (default: %(default)s)")  # fmt: skip
    add("--open", action="store_true", help="open the page in the browser")
    add_arguments(parser, ["device"])
    given = parser.parse_args(argv)
    device = from_arguments(given).device
    recognizer = Recognizer.from_checkpoint(given.checkpoint or default_checkpoint(), device)
    network = recognizer.network
    print(printable(network.summary), file=sys.stderr)
    recognizer.recognize(np.eye(40) > 0)  # the first takes longer
    try:
        server = Server(given.host, given.port, recognizer)
    except (OSError, OverflowError) as error:
        problem = f"cannot listen on {given.host} port {given.port}: {sentence(error)}"
        raise ValueError(f"{problem}; --port 0 takes any free port") from None
    with server:
        print(server.url, flush=True)
        if given.open:
            webbrowser.open(server.url)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
