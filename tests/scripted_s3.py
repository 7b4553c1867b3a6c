"""An S3 server in memory with a chosen flaw: what a store must find out about servers like it."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Flaw = Literal[
    "", "bare tags", "no create-only", "no swap", "refuses swaps", "loses races", "lists nothing", "no ranges",
    "one page",
]  # fmt: skip
"""Nothing; compares tags without their quotes, as Ceph RGW 16 does; ignores `If-None-Match`, or `If-Match`; fails every
`If-Match`; checks `If-None-Match` long before it writes; shows empty listings; sends all bytes; ends after a page."""
TOGETHER_S = 0.2
"""How long a request waits between the check of its condition and its write, in a server that loses races."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(target.query, keep_blank_values=True).items()}
        if "list-type" in query:
            self.answer(200, self.server.listing(query).encode())
            return
        if "/" not in target.path.strip("/"):  # the bucket
            self.answer(200)
            return
        data = self.server.objects.get(unquote(target.path))
        if data is None:
            self.refuse(404, "NoSuchKey")
            return
        wanted, status = self.headers.get("Range"), 200
        if wanted and self.server.flaw != "no ranges":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        self.answer(status, data)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, server = unquote(urlsplit(self.path).path), self.server
        if "/" not in path.strip("/"):
            self.answer(200)
            return
        if source := self.headers.get("x-amz-copy-source"):
            server.objects[path] = server.objects["/" + unquote(source).lstrip("/")]
            self.answer(200, b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
            return
        with server.lock if server.flaw != "loses races" else contextlib.nullcontext():
            if self.headers.get("If-None-Match") and path in server.objects and server.flaw != "no create-only":
                self.refuse(412, "PreconditionFailed")
                return
            if server.flaw == "loses races":
                time.sleep(TOGETHER_S)
            condition = self.headers.get("If-Match")
            if condition and not server.matches(condition, server.objects.get(path)):
                self.refuse(412, "PreconditionFailed")
                return
            server.objects[path] = body
        self.answer(200, tag=tag(body))

    def do_DELETE(self) -> None:
        self.server.objects.pop(unquote(urlsplit(self.path).path), None)
        self.answer(204)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def answer(self, status: int, body: bytes = b"", tag: str = "") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", self.date_time_string())
        self.send_header("ETag", tag or f'"{hashlib.md5(body).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs are not printed."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.flaw, self.lock = flaw, threading.Lock()
        self.objects: dict[str, bytes] = {}

    def matches(self, condition: str, data: bytes | None) -> bool:
        if self.flaw in ("no swap", "refuses swaps"):
            return self.flaw == "no swap"
        return data is not None and condition == (tag(data).strip('"') if self.flaw == "bare tags" else tag(data))

    def listing(self, query: dict[str, str]) -> str:
        prefix = query.get("prefix", "")
        keys = sorted(path.split("/", 2)[2] for path in list(self.objects))
        keys = [key for key in keys if key.startswith(prefix) and key > query.get("continuation-token", "")]
        if self.flaw == "lists nothing":
            keys = []
        page = keys[: int(query.get("max-keys", 1000))]
        more = len(page) < len(keys) and self.flaw != "one page"
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects['/bucket/' + key])}</Size>"
            f"<LastModified>{now}</LastModified></Contents>"
            for key in page
        )
        rest = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{rest}{entries}</ListBucketResult>"


def tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextmanager
def scripted(flaw: Flaw) -> Iterator[dict[str, str]]:
    """A server with this flaw, and a bucket `bucket`; yields the environment that reaches it."""
    server = Server(flaw)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
