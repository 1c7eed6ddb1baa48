"""Draw a character in the browser and see how it is read while it grows.

    python demo.py                                        # then open the address it prints
    python demo.py --open --checkpoint runs/train/best.pt
    python demo.py --host 0.0.0.0                         # for a phone in the same network
    python demo.py --port 0                               # any free port

request       answer
GET /         the page, demo.html
GET /network  {"checkpoint", "classes", "size"}
POST /read    body: a picture file of at most 8 MiB, as `predict.py` reads it ->
              {"readings": [{"character", "probability"}, ...], "glyph": "data:image/png;...",
              "milliseconds"}; glyph is what the network gets
              {"error": "..."} with status 4xx or 5xx where that fails

One page served by the standard library, not Gradio or the like: those bring more than a hundred
megabytes of packages and fetch fonts and scripts from the network, and their sketch pads send a
drawing when it is finished; here it is read after every stroke and before, without a network.
Left out: users, encryption, and whatever else a public service needs; put none on the Internet.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ipaddress
import json
import re
import secrets
import socket
import sys
import threading
import time
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

from config import DEFAULT_CHECKPOINT, add_arguments, from_arguments
from picture import decode_picture
from recognizer import Recognizer
from training.devices import pick_device

PAGE = Path(__file__).with_name("demo.html")
MAX_BODY = 8 << 20  # bytes of a picture
READINGS = 10
METHODS = {"/": "GET, HEAD", "/network": "GET, HEAD", "/read": "POST"}
# The page may load nothing and talk to nobody but this server.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Refusal(Exception):
    """A request that gets no answer: status and a sentence that says why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """One network, read by one request at a time, so that memory stays bounded."""

    daemon_threads = True

    def __init__(self, host: str, port: int, recognizer: Recognizer) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.recognizer = recognizer
        self.page = PAGE.read_text(encoding="utf-8")
        self.lock = threading.Lock()
        self.names = {"localhost", socket.gethostname().lower(), host.lower()}
        super().__init__((host, port), Handler)

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

    def read(self, body: bytes) -> dict:
        """Return the answer to a picture file.

        Raises:
            ValueError: not a picture, blank, or too large.
        """
        with self.lock:
            began = time.perf_counter()
            try:
                glyph = self.recognizer.glyph(decode_picture(body))
            except cv2.error:
                raise ValueError("picture: of a kind that cannot be read; try PNG") from None
            readings = self.recognizer.read(glyph[None], READINGS)[0]
        png = base64.b64encode(cv2.imencode(".png", glyph)[1]).decode()
        return {
            "readings": [reading._asdict() for reading in readings],
            "glyph": f"data:image/png;base64,{png}",
            "milliseconds": round(1000 * (time.perf_counter() - began), 1),
        }

    def network(self) -> dict:
        """Return what the page says of the network."""
        network = self.recognizer.network
        return {
            "checkpoint": Path(network.source).name,
            "classes": len(network.classes),
            "size": network.size,
        }


class Handler(BaseHTTPRequestHandler):
    """Answer one connection; see the module's table."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds that a silent client holds a thread
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def answer(self) -> None:
        """Answer a request of any method, whatever goes wrong with JSON."""
        try:
            body = self.body()
            self.check_origin()
            path = self.path.partition("?")[0]
            if path not in METHODS:
                raise Refusal(HTTPStatus.NOT_FOUND, f"nothing at {path[:80]}")
            if self.command not in METHODS[path]:
                reason = f"{path} takes {METHODS[path]}, not {self.command}"
                raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, reason)
            if path == "/":
                self.send_page()
            else:
                self.send_json(self.server.read(body) if path == "/read" else self.server.network())
        except Refusal as refusal:
            self.send_error(refusal.status, str(refusal))
            if refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                self.discard()
        except ValueError as error:
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except OSError:
            self.close_connection = True  # the client has gone
        except Exception as error:  # the server outlives whatever a picture does to it
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"failed: {type(error).__name__}")

    def body(self) -> bytes:
        """Return the body of the request.

        Raises:
            Refusal: its length is not said, or too large.
        """
        length = self.headers.get("Content-Length", "0" if self.command != "POST" else "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self.close_connection = True  # where the next request begins is unknown
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the request has no valid Content-Length")
        if int(length) > MAX_BODY:
            self.close_connection = True
            limit = f"the picture has {int(length):,} bytes, at most {MAX_BODY:,} are read"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit)
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            self.close_connection = True
            raise Refusal(HTTPStatus.BAD_REQUEST, "the request ended before its Content-Length")
        return data

    def discard(self) -> None:
        """Read away what is left of a body: a client sends all before it looks for an answer."""
        left = min(int(self.headers["Content-Length"]), 4 * MAX_BODY)
        with contextlib.suppress(OSError):
            while left > 0 and (data := self.rfile.read(min(left, 1 << 16))):
                left -= len(data)

    def check_origin(self) -> None:
        """Refuse what a foreign page sends: one whose name was bound to this address, or a form.

        DNS rebinding needs a name: a Host that is an address or a name of this machine is safe.

        Raises:
            Refusal: Host or Origin is foreign.
        """
        host = self.headers.get("Host", "")
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        if name not in self.server.names and not is_address(name):
            reason = f"the host name {name[:80]!r} is not this machine's; open {self.server.url}"
            raise Refusal(HTTPStatus.FORBIDDEN, reason)
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise Refusal(HTTPStatus.FORBIDDEN, "the request comes from another page")

    def send_page(self) -> None:
        """Send demo.html; its script and style run by a nonce that no other page knows."""
        nonce = secrets.token_urlsafe(16)
        page = self.server.page.replace("{nonce}", nonce).encode()
        policy = {"Content-Security-Policy": POLICY.format(nonce=nonce)}
        self.send(HTTPStatus.OK, "text/html; charset=utf-8", page, policy)

    def send_json(self, content: dict, status: int = HTTPStatus.OK, **headers: str) -> None:
        data = json.dumps(content, ensure_ascii=False).encode()
        self.send(status, "application/json; charset=utf-8", data, headers)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a sentence as JSON; the base class calls this for malformed requests."""
        message = message or explain or HTTPStatus(code).phrase
        if code == HTTPStatus.NOT_IMPLEMENTED:  # a method that has no do_...
            code = HTTPStatus.METHOD_NOT_ALLOWED
        headers = {}
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = METHODS.get(self.path, "GET, HEAD, POST")
        if code >= HTTPStatus.INTERNAL_SERVER_ERROR or not hasattr(self, "headers"):
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


def is_address(name: str) -> bool:
    """Tell whether a host name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def start(host: str, port: int, recognizer: Recognizer) -> Server:
    """Open the port, and read once, so that the first stroke does not wait.

    Raises:
        ValueError: the address cannot be had.
    """
    size = recognizer.network.size
    recognizer.read(np.zeros((1, size, size), np.uint8))
    try:
        return Server(host, port, recognizer)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"cannot listen on {host} port {port}: {reason}; --port 0 takes any free port"
        ) from None


def main(argv: list[str] | None = None) -> int:
    """Serve the page as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Draw characters in the browser and see how they are read. Ctrl+C stops.",
    )
    parser.add_argument(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        metavar="FILE",
        help="checkpoint (.pt) or exported network (.onnx) (default: %(default)s)",
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 opens the page to the whole network "
        "(default: %(default)s, this machine alone)",
    )
    server.add_argument(
        "--port", type=int, default=8000, help="0: any free port (default: %(default)s)"
    )
    server.add_argument("--open", action="store_true", help="open the page in the browser")
    add_arguments(parser, ["device"])
    given = parser.parse_args(argv)
    try:
        device = pick_device(from_arguments(given).device)
        recognizer = Recognizer.from_checkpoint(given.checkpoint, device)
        with start(given.host, given.port, recognizer) as page:
            print(page.url, flush=True)
            if given.open:
                webbrowser.open(page.url)
            page.serve_forever()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
