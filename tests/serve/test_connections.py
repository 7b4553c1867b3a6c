"""Connections that are slow or many, that are no HTTP, or that hang up: each costs little, and none stops others."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from nanochat.serve import connection as connections
from nanochat.serve.limits import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_PIPELINED_BYTES
from nanochat.store.store import Store
from tests.serve.models import ANSWER
from tests.serve.servers import Breaking, Running, load_breaking, running
from tests.waiting import until

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def request(path: str = "/v1/chat/completions", **body: Any) -> bytes:
    """A whole request with JSON."""
    data = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        len(data),
        data,
    )


CHAT = request(messages=[{"role": "user", "content": "Hi"}], temperature=0)
LONG = request("/v1/completions", prompt="a", max_tokens=200, temperature=0)


@contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=300) as found:
        yield found


def responses(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of this many responses."""
    found: list[tuple[int, bytes]] = []
    reader = connection.makefile("rb")
    while len(found) < count:
        status = int(reader.readline().split()[1])
        length = 0
        while line := reader.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        found.append((status, reader.read(length)))
    return found


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def envelope(response: bytes) -> dict[str, Any]:
    return json.loads(response.partition(b"\r\n\r\n")[2])["error"]


@pytest.fixture
def breaking(store: Store) -> Iterator[Running]:
    with running(store, load_breaking, slots=2) as found:
        yield found
        for engine in found.engines:
            engine.gate.set()


def answers(server: Running) -> int:
    return server.server.serving.models.answers


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/v1/models", "/metrics", "/openapi.json"])
def test_head_has_the_headers_of_get_and_no_body(server: Running, path: str) -> None:
    got, head = server.http.get(path), server.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-security-policy"):
        assert head.headers.get(name) == got.headers.get(name)
    assert server.http.head("/none").status_code == 404
    assert server.http.head("/v1/chat/completions").status_code == 405


def test_a_body_that_comes_byte_by_byte_is_read(server: Running) -> None:
    with connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in CHAT:
            connection.sendall(bytes([byte]))
        ((status, body),) = responses(connection, 1)
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == ANSWER


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    for cut in (len(CHAT), 10, len(CHAT) + len(HEALTH) + 70):
        with connected(server) as connection:
            sent = CHAT + HEALTH + CHAT + HEALTH
            connection.sendall(sent[:cut])
            connection.sendall(sent[cut:])
            found = responses(connection, 4)
        assert [status for status, _ in found] == [200] * 4
        assert [b"choices" in body for _, body in found] == [True, False, True, False]


def test_a_client_that_hangs_up_with_requests_in_the_pipeline_frees_its_slot(breaking: Running) -> None:
    engine: Breaking = breaking.engines[0]
    engine.step_s = 0.05
    for ahead in (LONG, LONG * 5, LONG[:-3], request(text="x" * 100_000)[:70_000]):
        with connected(breaking) as connection:
            connection.sendall(LONG)
            until(lambda: answers(breaking) == 1, "an answer")
            connection.sendall(ahead)
        until(lambda: answers(breaking) == 0, "the server to see it")
        breaking.wait_until_idle()
    assert engine.statistics.generated_tokens < 4 * 200


def test_a_client_that_sends_on_without_reading_is_cut_off(breaking: Running) -> None:
    engine: Breaking = breaking.engines[0]
    engine.gate.clear()
    with connected(breaking) as connection:
        connection.sendall(LONG)
        until(lambda: answers(breaking) == 1, "an answer")
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(HEALTH * (MAX_PIPELINED_BYTES // len(HEALTH)))
    until(lambda: answers(breaking) == 0, "the server to see it")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_its_side_has_hung_up(breaking: Running, stream: bool) -> None:
    engine: Breaking = breaking.engines[0]
    engine.step_s = 0.05
    with connected(breaking) as connection:
        connection.sendall(request("/v1/completions", prompt="a", max_tokens=200, stream=stream))
        until(lambda: engine.statistics.running == 1, "an answer")
        connection.shutdown(socket.SHUT_WR)
        until(lambda: answers(breaking) == 0, "the server to see it")
        rest(connection)  # the server closes it
    breaking.wait_until_idle()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: loc", HEALTH + b"GET /he"])
def test_headers_that_do_not_arrive_are_given_up(server: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Slow headers (slow loris), also of a later request; a connection that sends nothing is closed silently."""
    monkeypatch.setattr(connections, "HEADERS_S", 0.3)
    with connected(server) as connection:
        connection.sendall(sent)
        received = rest(connection)
    if b"GE" in sent.replace(HEALTH, b""):
        assert b"HTTP/1.1 408 " in received
        assert "headers" in envelope(received[received.index(b"HTTP/1.1 408 ") :])["message"]
    assert server.chat().status_code == 200


def test_headers_that_come_byte_by_byte_have_the_same_time(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.3)
    with connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(0.02)
        received = b""

        def send_one() -> bool:
            nonlocal received
            try:
                connection.sendall(b"x")
                received += connection.recv(4096)
            except TimeoutError:
                return False
            except OSError:
                return True
            return bool(received)

        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        until(send_one, "the end", every_s=0)
        assert b" 408 " in received


def test_headers_without_end_are_refused(server: Running) -> None:
    for head in (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET /"):
        with connected(server) as connection:
            connection.sendall(head + b"x" * (MAX_HEADER_BYTES + 1))
            received = rest(connection)
        assert b" 431 " in received
        assert "headers" in envelope(received)["message"]


def test_the_framing_of_a_body_is_limited_too(server: Running) -> None:
    """The extension of a chunk, and a trailer, count for no body."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for framing in (b"1;", b"0\r\nX: "):
        with connected(server) as connection, pytest.raises(OSError):
            connection.sendall(head + framing)
            while True:
                connection.sendall(b"x" * MAX_HEADER_BYTES)
    assert server.chat().status_code == 200


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_is_an_error_in_the_envelope(server: Running, sent: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(sent)
        received = rest(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert envelope(received)["type"] == "invalid_request_error"


def test_a_client_that_reads_only_after_its_whole_body_gets_the_413(server: Running) -> None:
    body = b" " * (MAX_BODY_BYTES + 4096)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for _ in range(20):
        with connected(server) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            connection.sendall(HEALTH)  # the connection is good for another request
            found = responses(connection, 2)
        assert [status for status, _ in found] == [413, 200]


def test_a_body_that_never_ends_is_cut_off_after_the_answer(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.3)
    with connected(server) as connection:
        connection.sendall(b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        assert responses(connection, 1)[0][0] == 404
        with pytest.raises(OSError):
            until(lambda: connection.sendall(b"x" * 1000), "the end")


def test_beyond_the_limit_of_connections_others_get_503_and_those_that_are_open_go_on(store: Store) -> None:
    with running(store) as server, ExitStack() as opened:
        server.server.config.limit_concurrency = 5
        assert server.http.get("/health").status_code == 200  # keeps its connection
        for _ in range(4):
            opened.enter_context(connected(server))
        received = rest(opened.enter_context(connected(server)))
        assert b" 503 " in received
        assert envelope(received)["code"] == "too_many_connections"
        assert server.chat().status_code == 200
        opened.close()
        until(lambda: len(server.server.server_state.connections) == 1, "the end of the connections")
        with httpx.Client(base_url=server.address) as another:
            assert another.get("/health").status_code == 200
