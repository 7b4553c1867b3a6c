"""An S3 server that misbehaves: a proxy before a real one, which delays, drops and refuses what is read or written."""

from __future__ import annotations

import http.client
import io
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = (
    Literal[
        "", "drop", "lost", "short", "torn", "half", "empty", "busy", "broken", "forbidden", "unknown", "skewed",
        "missing", "precondition", "page", "bare", "welcome", "nothing",
    ]
    | float
)  # fmt: skip
"""Nothing; the connection is closed before or after the request was passed on; half of the body is read or sent; half
of it is sent as if it were all; half of a listing, or none of it; an answer of `ANSWERS` in place of the server's; or
an answer after so many seconds."""
XML = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'
ANSWERS = {
    "busy": (503, XML.format("SlowDown", "Reduce your request rate.").encode()),
    "broken": (500, XML.format("InternalError", "We are sorry.").encode()),
    "forbidden": (403, XML.format("AccessDenied", "Access Denied.").encode()),
    "unknown": (501, XML.format("NotImplemented", "A header implies what is not implemented.").encode()),
    "skewed": (403, XML.format("RequestTimeTooSkewed", "The difference is too large.").encode()),
    "missing": (404, XML.format("NoSuchKey", "The specified key does not exist.").encode()),
    "precondition": (412, XML.format("PreconditionFailed", "A condition did not hold.").encode()),
    "page": (404, b"<!DOCTYPE html><html><body>Not found</body></html>"),
    "bare": (404, b""),
    "welcome": (200, b"<!DOCTYPE html><html><body>Welcome to the network</body></html>"),
    "nothing": (200, b""),
}
ENTRY = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
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

    `fault` is called at each request that `of` selects by method and path. Bodies, of all requests together, pass at
    `bytes_per_s`.
    """
    done: list[Fault] = []
    lock, line = threading.Lock(), threading.Lock()
    behind = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes: the second would wait for 40 ms

        def forward(self) -> None:
            wanted: Fault = ""
            if of(self.command, self.path):
                with lock:
                    wanted = fault(len(done))
                    done.append(wanted)
            if isinstance(wanted, float):
                time.sleep(wanted)
            if wanted == "drop":
                self.close_connection = True
                return
            length = int(self.headers.get("Content-Length", 0))
            if wanted == "short" and length:
                self.rfile.read(length // 2)
                self.close_connection = True
                return
            given = b"".join(self.paced(self.rfile.read, length))
            if wanted in ANSWERS:
                status, body = ANSWERS[wanted]
                kind = "text/html" if wanted in ("page", "welcome") else "application/xml"
                self.answer(status, {"Content-Type": kind}, b"" if self.command == "HEAD" else body)
                return
            connection = http.client.HTTPConnection(behind, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # `Host` too: the signature covers it
                connection.putheader(name, value)
            connection.endheaders(given)
            answer = connection.getresponse()
            body = answer.read()  # of HEAD: none
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            if wanted == "lost":
                self.close_connection = True
                return
            if wanted in ("half", "empty"):
                entries = ENTRY.findall(body)
                for entry in entries[len(entries) // 2 if wanted == "half" else 0 :]:
                    body = body.replace(entry, b"")
                headers["Content-Length"] = str(len(body))
            if wanted == "torn":
                body = body[: len(body) // 2]
                headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
            self.answer(answer.status, headers, body, cut=wanted == "short")
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
            """Logs are not printed."""

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
