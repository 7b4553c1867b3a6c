"""An S3 server that misbehaves: a proxy before a real one, which delays, drops and refuses what is read or written."""

from __future__ import annotations

import http.client
import io
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = (
    Literal["", "drop", "short", "torn", "busy", "broken", "forbidden", "unknown", "page", "bare", "welcome"] | float
)
"""Nothing; the connection is closed; half of the body is read or sent; half of it is sent as if it were all; HTTP 503;
HTTP 500; HTTP 403; HTTP 501; a page in HTML with the status 404; 404 without a body; a page with the status 200; or an
answer after so many seconds."""
XML = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'
REFUSALS = {
    "busy": (503, XML.format("SlowDown", "Reduce your request rate.").encode()),
    "broken": (500, XML.format("InternalError", "We are sorry.").encode()),
    "forbidden": (403, XML.format("AccessDenied", "Access Denied.").encode()),
    "unknown": (501, XML.format("NotImplemented", "A header implies what is not implemented.").encode()),
    "page": (404, b"<!DOCTYPE html><html><body>Not found</body></html>"),
    "bare": (404, b""),
    "welcome": (200, b"<!DOCTYPE html><html><body>Welcome to the network</body></html>"),
}
CHUNK_BYTES = 16_384


def reads_block(method: str, path: str) -> bool:
    """Of packed rows."""
    return method == "GET" and ".parquet" in path


@contextmanager
def faulty(
    endpoint: str,
    fault: Callable[[int], Fault],
    of: Callable[[str, str], bool] = reads_block,
    bytes_per_s: float = math.inf,
) -> Iterator[tuple[str, list[Fault]]]:
    """The address of a proxy before `endpoint`, and what it did so far.

    `fault` is asked at each request of which `of` says so by method and path. Bodies, of all requests together, pass at
    `bytes_per_s`.
    """
    done: list[Fault] = []
    lock, line = threading.Lock(), threading.Lock()
    behind = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            asked: Fault = ""
            if of(self.command, self.path):
                with lock:
                    asked = fault(len(done))
                    done.append(asked)
            if isinstance(asked, float):
                time.sleep(asked)
            if asked == "drop":
                self.close_connection = True
                return
            length = int(self.headers.get("Content-Length", 0))
            if asked == "short" and length:
                self.rfile.read(length // 2)
                self.close_connection = True
                return
            given = b"".join(self.paced(self.rfile.read, length))
            if asked in REFUSALS:
                status, said = REFUSALS[asked]
                self.answer(status, {"Content-Type": "application/xml"}, said)
                return
            connection = http.client.HTTPConnection(behind, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # `Host` too: the signature covers it
                connection.putheader(name, value)
            connection.endheaders(given)
            answer = connection.getresponse()
            body = answer.read()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            if asked == "torn":
                body = body[: len(body) // 2]
                headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
            self.answer(answer.status, headers, body, cut=asked == "short")
            connection.close()

        def paced(self, read: Callable[[int], bytes], length: int) -> Iterator[bytes]:
            while length:
                chunk = read(min(length, CHUNK_BYTES))
                if not chunk:
                    return
                length -= len(chunk)
                with line:  # one line for all
                    time.sleep(len(chunk) / bytes_per_s)
                yield chunk

        def answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length", str(len(body)))
            for name, value in {**headers, "Content-Length": length}.items():
                self.send_header(name, value)
            self.end_headers()
            for chunk in self.paced(io.BytesIO(body[: len(body) // 2] if cut else body).read, len(body)):
                self.wfile.write(chunk)
            self.close_connection = self.close_connection or cut

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815  # their names in the library

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Who hangs up is no matter here."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", done
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
