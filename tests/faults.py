"""An S3 server that misbehaves: a proxy before a real one, which delays, drops and refuses what is read."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["", "drop", "short", "busy"] | float
"""Nothing; the connection is closed; half of the body is sent; HTTP 503; or an answer after so many seconds."""
BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'


@contextmanager
def faulty(endpoint: str, fault: Callable[[int], Fault]) -> Iterator[tuple[str, list[Fault]]]:
    """The address of a proxy before `endpoint`, and what it did so far; `fault` is asked at each read of a block."""
    done: list[Fault] = []
    lock = threading.Lock()
    behind = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            asked: Fault = ""
            if self.command == "GET" and ".parquet" in self.path:
                with lock:
                    asked = fault(len(done))
                    done.append(asked)
            if isinstance(asked, float):
                time.sleep(asked)
            if asked == "drop":
                self.close_connection = True
                return
            if asked == "busy":
                self.answer(503, {"Content-Type": "application/xml"}, BUSY)
                return
            given = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = http.client.HTTPConnection(behind, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # `Host` too: the signature covers it
                connection.putheader(name, value)
            connection.endheaders(given)
            answer = connection.getresponse()
            body = answer.read()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            self.answer(answer.status, headers, body, cut=asked == "short")
            connection.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length", str(len(body)))
            for name, value in {**headers, "Content-Length": length}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
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
