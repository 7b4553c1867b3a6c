"""HTTP servers that answer in unusual ways: encodings, ranges, redirects, lists of addresses."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import re
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from nanochat.config.data import DataConfig
from nanochat.errors import BadSource, DamagedTransfer, SourceUnreachable
from nanochat.sources import retry
from nanochat.sources.download import write_shard
from nanochat.sources.shard_list import list_shards
from tests.unit.test_hub_unreachable import certificate

LINES = b"".join(json.dumps({"text": f"document {i} {hashlib.sha256(b'%d' % i).hexdigest()}"}).encode() + b"\n"
                 for i in range(500))  # fmt: skip


def compressed(codec: str, data: bytes = LINES) -> bytes:
    into = pa.BufferOutputStream()
    with pa.CompressedOutputStream(into, codec) as stream:
        stream.write(data)
    return into.getvalue().to_pybytes()


class Answers(http.server.ThreadingHTTPServer):
    """Each request is answered by `answer(handler)`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[Handler], None] = lambda handler: handler.send(LINES)
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and range of each request."""
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answers

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range", "")))
        self.server.answer(self)

    do_HEAD = do_GET  # noqa: N815

    def send(self, data: bytes, status: int = 200, cut: int = 0, length: int | None = -1, **headers: str) -> None:
        """`cut` bytes are kept back; `length` None sends none and closes."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is None:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data) if length < 0 else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) - cut])
        self.close_connection = self.close_connection or length is None or cut > 0

    @property
    def begin(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else 0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    server = Answers()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def documents(source: str, folder: Path) -> int:
    (shard,) = list_shards(DataConfig(source=source))
    out = folder / "out"
    out.mkdir(exist_ok=True)
    metrics = write_shard(shard, out)
    return metrics["train_documents"] + metrics["validation_documents"]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(LINES)), ("x-gzip", gzip.compress(LINES)), ("deflate", zlib.compress(LINES)),
        ("deflate", zlib.compress(LINES)[2:-4]), ("br", compressed("brotli")), ("zstd", compressed("zstd")),
        ("gzip, br", compressed("brotli", gzip.compress(LINES))), ("identity", LINES),
    ],
    ids=["gzip", "x-gzip", "deflate", "raw deflate", "br", "zstd", "two", "identity"],
)  # fmt: skip
def test_what_a_server_encodes_is_decoded(tmp_path: Path, site: Answers, encoding: str, data: bytes) -> None:
    """Also when it breaks in the middle: the rest is not put behind bytes of another form."""
    cuts = [0, len(data) // 2, len(data) // 3]

    def answer(handler: Handler) -> None:
        cut = cuts.pop() if cuts and handler.command == "GET" else 0
        handler.send(data, cut=cut, Content_Encoding=encoding, ETag='"a"')

    site.answer = answer
    assert documents(f"{site.address}/a.jsonl", tmp_path) == 500


def test_an_encoding_that_the_name_has_too_is_no_second_one(tmp_path: Path, site: Answers) -> None:
    site.answer = lambda handler: handler.send(gzip.compress(LINES), Content_Encoding="gzip")
    assert documents(f"{site.address}/a.jsonl.gz", tmp_path) == 500


def test_an_unknown_or_wrong_encoding_is_named(tmp_path: Path, site: Answers) -> None:
    site.answer = lambda handler: handler.send(LINES, Content_Encoding="rot13")
    with pytest.raises(BadSource, match="unknown encoding `rot13`"):
        documents(f"{site.address}/a.jsonl", tmp_path)
    site.answer = lambda handler: handler.send(LINES, Content_Encoding="gzip", ETag='"b"')
    with pytest.raises(DamagedTransfer, match=r"a\.jsonl is damaged: it is not gzip, as its header states"):
        documents(f"{site.address}/a.jsonl", tmp_path)


@pytest.mark.parametrize("of", [LINES, gzip.compress(LINES, mtime=0)], ids=["of the file", "of what is sent"])
def test_a_hash_is_checked_whatever_it_is_of(tmp_path: Path, site: Answers, of: bytes) -> None:
    promised = hashlib.sha256(of).hexdigest()

    def answer(handler: Handler) -> None:
        if handler.path.endswith(".txt"):
            handler.send(f"{promised}  a.jsonl\n".encode())
        else:
            md5 = "8AAAAAAAAAAAAAAAAAAAAA=="  # of something else, as of the bytes that are stored
            handler.send(gzip.compress(LINES, mtime=0), Content_Encoding="gzip",
                         **{} if handler.path == "/a.jsonl" else {"x-goog-hash": f"md5={md5}"})  # fmt: skip

    site.answer = answer
    assert documents(f"{site.address}/list.txt", tmp_path) == 500
    promised = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(DamagedTransfer):
        documents(f"{site.address}/list.txt", tmp_path)


def test_a_sum_of_another_kind_than_the_servers_is_no_contradiction(tmp_path: Path, site: Answers) -> None:
    sha256 = hashlib.sha256(LINES).hexdigest()
    md5 = base64.b64encode(hashlib.md5(LINES).digest()).decode()
    site.answer = lambda handler: (
        handler.send(f"{sha256}  a.jsonl\n".encode()) if handler.path.endswith(".txt")
        else handler.send(LINES, Content_MD5=md5)
    )  # fmt: skip
    assert documents(f"{site.address}/list.txt", tmp_path) == 500


def test_bytes_that_were_decoded_on_the_way_are_not_held_to_the_stored_ones(tmp_path: Path, site: Answers) -> None:
    site.answer = lambda handler: handler.send(
        LINES, **{"x-goog-stored-content-encoding": "gzip", "x-goog-hash": "md5=8AAAAAAAAAAAAAAAAAAAAA=="}
    )
    assert documents(f"{site.address}/a.jsonl", tmp_path) == 500


@pytest.mark.parametrize("status", [400, 403, 404, 405, 429, 500, 501, 503])
def test_a_server_may_answer_only_get(tmp_path: Path, site: Answers, status: int) -> None:
    site.answer = lambda handler: handler.send(b"", status) if handler.command == "HEAD" else handler.send(LINES)
    assert documents(f"{site.address}/a.jsonl", tmp_path) == 500


@pytest.mark.parametrize("length", [0, None], ids=["zero", "none"])
def test_a_server_may_say_no_size_without_the_bytes(tmp_path: Path, site: Answers, length: int | None) -> None:
    changed = {"Last_Modified": "Mon, 30 Nov 2026 08:00:00 GMT"}
    site.answer = lambda handler: (
        handler.send(b"", length=length, **changed) if handler.command == "HEAD" else handler.send(LINES, **changed)
    )
    assert documents(f"{site.address}/a.jsonl", tmp_path) == 500
    site.answer = lambda handler: handler.send(b"", 416 if handler.headers.get("Range") else 200)
    with pytest.raises(BadSource, match=r"b\.jsonl` is empty"):
        documents(f"{site.address}/b.jsonl", tmp_path)


@pytest.mark.parametrize("headers", [{}, {"Last_Modified": "Mon, 30 Nov 2026 08:00:00 GMT"}])
def test_a_server_that_sends_no_length(tmp_path: Path, site: Answers, headers: dict[str, str]) -> None:
    def answer(handler: Handler) -> None:  # with HEAD it does
        handler.send(LINES, length=None if handler.command == "GET" else -1, **headers)

    site.answer = answer
    assert documents(f"{site.address}/a.jsonl", tmp_path) == 500


@pytest.mark.parametrize("how", ["ignored", "other part", "no range sent", "too much", "multipart"])
def test_a_wrong_range_is_not_put_together(tmp_path: Path, site: Answers, how: str) -> None:
    first = [True]

    def answer(handler: Handler) -> None:
        whole, begin = len(LINES), handler.begin
        if handler.command == "GET" and first and first.pop():
            handler.send(LINES, cut=whole // 2)
        elif not begin or how == "ignored":
            handler.send(LINES)
        elif how == "other part":
            handler.send(LINES[10:], 206, Content_Range=f"bytes 10-{whole - 1}/{whole}")
        elif how == "no range sent":
            handler.send(LINES[begin:], 206)
        elif how == "too much":
            handler.send(LINES, 206, Content_Range=f"bytes {begin}-{whole - 1}/{whole}")
        else:
            handler.send(LINES[begin:], 206, Content_Type="multipart/byteranges; boundary=x")

    site.answer = answer
    assert documents(f"{site.address}/a.jsonl", tmp_path) == 500
    assert len(site.requests) > 2


def test_a_changed_tag_between_two_ranges_is_noticed(tmp_path: Path, site: Answers) -> None:
    tags = ['W/"b"', 'W/"a"', 'W/"a"']  # HEAD, the first part, the rest

    def answer(handler: Handler) -> None:
        handler.send(LINES, cut=100 if len(tags) == 2 else 0, ETag=tags.pop())

    site.answer = answer
    with pytest.raises(BadSource, match="changed since the run began"):
        documents(f"{site.address}/a.jsonl", tmp_path)


def test_an_empty_answer_is_named(tmp_path: Path, site: Answers) -> None:
    site.answer = lambda handler: handler.send(b"")
    with pytest.raises(BadSource, match=r"a\.jsonl` is empty"):
        documents(f"{site.address}/a.jsonl", tmp_path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "list.txt"])
def test_the_page_of_a_network_is_not_data(tmp_path: Path, site: Answers, name: str) -> None:
    site.answer = lambda handler: handler.send(b"<!DOCTYPE html><html>Log in</html>", Content_Type="text/html")
    with pytest.raises(BadSource, match=rf"{name}` is an HTML or XML page"):
        documents(f"{site.address}/{name}", tmp_path)


def test_a_content_type_that_is_wrong_is_of_no_importance(tmp_path: Path, site: Answers) -> None:
    site.answer = lambda handler: handler.send(LINES, Content_Type="text/html")
    assert documents(f"{site.address}/a.jsonl", tmp_path) == 500


def test_redirects_end_and_do_not_lead_from_https_to_http(tmp_path: Path, site: Answers, monkeypatch) -> None:
    site.answer = lambda handler: handler.send(b"", 302, Location="/a.jsonl")
    with pytest.raises(BadSource, match="cannot be requested"):
        documents(f"{site.address}/a.jsonl", tmp_path)
    certificate(tmp_path / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    other = Answers()
    other.socket = context.wrap_socket(other.socket, server_side=True)
    threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
    try:
        secure = f"https://127.0.0.1:{other.server_address[1]}/a.jsonl"
        with pytest.raises(BadSource, match=r"certificate of .* cannot be verified"):
            documents(secure, tmp_path)
        assert not other.requests, "not tried again"
        import httpx

        real = httpx.Client
        monkeypatch.setattr(httpx, "Client", lambda **options: real(verify=False, **options))
        other.answer = lambda handler: handler.send(b"", 302, Location=f"{site.address}/a.jsonl")
        site.answer = lambda handler: handler.send(LINES)
        with pytest.raises(BadSource, match="redirects from `https://` to the insecure `http://`"):
            documents(secure, tmp_path)
    finally:
        other.shutdown()
        other.server_close()


def test_a_proxy_that_cannot_be_used_is_named(tmp_path: Path, site: Answers, monkeypatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "nonsense://127.0.0.1:9")
    with pytest.raises(BadSource, match="the proxy settings cannot be used"):
        documents("http://example.invalid/a.jsonl", tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(SourceUnreachable, match="did not answer") as caught:
        documents("http://example.invalid/a.jsonl", tmp_path)
    assert "proxy" in caught.value.hint


def listed(site: Answers, text: bytes) -> list[str]:
    site.answer = lambda handler: handler.send(text if handler.path.endswith(".txt") else LINES)
    return [
        shard.url.removeprefix(site.address) for shard in list_shards(DataConfig(source=f"{site.address}/x/list.txt"))
    ]


def test_a_list_of_addresses_is_read_as_people_write_them(site: Answers, caplog) -> None:
    text = (
        f"\ufeff# shards\r\n\r\n  a.jsonl  \r\n../b%20c.jsonl\r\n/d.jsonl\r\na.jsonl\r\n{site.address}/e.jsonl?v=1\r\n"
    )
    assert sorted(listed(site, text.encode())) == ["/b%20c.jsonl", "/d.jsonl", "/e.jsonl?v=1", "/x/a.jsonl"]
    assert "/x/a.jsonl` twice: read once" in caplog.text
    sums = b"".join(b"%s *%s\n" % (b"0" * 64, name) for name in (b"a b.jsonl", b"c#1?.jsonl", b"./d.jsonl"))
    assert sorted(listed(site, sums)) == ["/x/a%20b.jsonl", "/x/c%231%3F.jsonl", "/x/d.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.csv", "line 2, `a.csv`"), ("a b.jsonl", "line 2"), ("file:///etc/a.jsonl", "line 2"),
        ("a.jsonl#part", "line 2"), ("0" * 20 + "  a.jsonl", "hash of 20 digits"),
        ("1" * 64 + "  b.jsonl", "contradicts another checksum"), ("https://me:secret@host/a.jsonl", "credential"),
        ("https://secret@host/a.jsonl", "credential"), ("http://[::1/a.jsonl", "line 2"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_is_named(site: Answers, line: str, message: str) -> None:
    with pytest.raises(BadSource, match=re.escape(message)) as caught:
        listed(site, f"{'0' * 64}  b.jsonl\n{line}\n".encode())
    assert "secret" not in str(caught.value)


def test_shards_of_the_same_path_have_names_of_their_own(site: Answers) -> None:
    """Of two hosts, or with two queries: the sample is of one of them, whichever others come."""
    site.answer = lambda handler: handler.send(
        b"x/a.jsonl?part=1\nx/a.jsonl?part=2\n" if handler.path.endswith(".txt") else LINES
    )
    names = [shard.name for shard in list_shards(DataConfig(source=f"{site.address}/list.txt"))]
    assert len(set(names)) == 2 and all("a.jsonl" in name for name in names)


def test_a_list_of_validation_files_alone_is_refused(site: Answers) -> None:
    """Folders above a file do not count: they are of the server."""
    with pytest.raises(BadSource, match=r"has only a validation split, `val-0\.jsonl`, `val-1\.jsonl`"):
        listed(site, b"val-0.jsonl\nval-1.jsonl\n")
    assert len(listed(site, b"/dev/x/a.jsonl\n/dev/x/b.jsonl\n")) == 2


def test_a_list_without_addresses_is_refused(site: Answers) -> None:
    with pytest.raises(BadSource, match="it has none"):
        listed(site, b"# nothing yet\n")
