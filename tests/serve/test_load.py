"""Many clients at once, of which some hang up, wait, or read slowly: nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from nanochat.serve import answering
from nanochat.serve import server as server_of
from nanochat.store.store import Store
from tests.serve.models import ANSWER, chain_model, publish
from tests.serve.servers import Running, running
from tests.waiting import until

pytestmark = pytest.mark.slow
REQUESTS, AT_ONCE = 1000, 100
MORE_MEMORY_BYTES = 5 << 20


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Running]:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, tmp_path / "model", chain_model(), key="5" * 64, alias="chat/latest")
    with running(store, slots=16, queue=1 << 14) as server:
        yield server


def port_of(server: Running) -> int:
    return int(server.address.rpartition(":")[2])


async def connect(server: Running, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends a request."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    path = b"/v1/chat/completions" if "messages" in body else b"/v1/completions"
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (path, len(data), data)
    )
    return reader, writer


async def one(server: Running, number: int, generator: random.Random, free: asyncio.Semaphore) -> bool:
    """A request; every fifth client hangs up at a random moment. Whether the others got their whole answer."""
    stream = bool(generator.getrandbits(1))
    body: dict[str, object] = {"prompt": "a", "max_tokens": 40, "temperature": 0, "stream": stream}
    async with free:
        reader, writer = await connect(server, body)
        try:
            if number % 5 == 0:
                await asyncio.sleep(generator.uniform(0, 0.5))
                return True
            received = await reader.read(-1)
            return b"[DONE]" in received if stream else b"bcdea" * 8 in received
        finally:
            writer.close()


async def storm(server: Running, seed: int, requests: int) -> list[bool]:
    generator, free = random.Random(seed), asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(*(one(server, number, generator, free) for number in range(requests)))


def test_after_a_thousand_requests_of_which_a_fifth_hang_up_every_slot_is_free_and_memory_is_flat(
    loaded: Running,
) -> None:
    assert all(asyncio.run(storm(loaded, 1, REQUESTS)))  # fills caches and pools
    loaded.wait_until_idle()
    gc.collect()
    before = psutil.Process().memory_info().rss
    assert all(asyncio.run(storm(loaded, 2, REQUESTS)))
    loaded.wait_until_idle()
    gc.collect()
    assert psutil.Process().memory_info().rss - before < MORE_MEMORY_BYTES
    assert loaded.chat().json()["choices"][0]["message"]["content"] == ANSWER


MANY = 10_000
SERVER_OF_MANY = """
from nanochat.serve import connection
connection.HEADERS_S = 3600  # also on a busy machine, all are open at once
from nanochat.cli.main import main
main()
"""


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may have `MANY` connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY + 1000:
        pytest.skip(f"this user may have {hard:,} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_ten_thousand_connections_do_not_keep_others_from_their_answer(tmp_path: Path) -> None:
    """Half of them never send anything, half had an answer and stay open."""
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, tmp_path / "model", chain_model(), key="5" * 64, alias="chat/latest")
    started = [sys.executable, "-c", SERVER_OF_MANY, "serve", "--port", "0", "--store", str(tmp_path / "store")]
    environment = {**os.environ, "NANOCHAT_HOME": str(tmp_path / "home"), "PYTHONUNBUFFERED": "1"}

    async def open_many(address: str) -> list[asyncio.StreamWriter]:
        opened: list[asyncio.StreamWriter] = []

        async def open_one(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            opened.append(writer)
            if number % 2:
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")

        for start in range(0, MANY, 200):
            await asyncio.gather(*(open_one(number) for number in range(start, start + 200)))
        return opened

    async def check(server: subprocess.Popen[str]) -> None:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1].rstrip("/")
        process = psutil.Process(server.pid)
        async with httpx.AsyncClient(base_url=address, timeout=300) as client:
            body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
            await client.post("/v1/chat/completions", json=body)
            before, files = process.memory_info().rss, process.num_fds()
            opened = await open_many(address)
            response = await client.post("/v1/chat/completions", json=body)
            assert response.json()["choices"][0]["message"]["content"] == ANSWER
            assert process.num_fds() >= MANY // 2  # those that had an answer are closed after 75 s
            assert process.memory_info().rss - before < MANY * 32_768
            for writer in opened:
                writer.close()
            await asyncio.to_thread(until, lambda: process.num_fds() <= files, "the end of the connections")

    with subprocess.Popen(started, text=True, stdout=subprocess.PIPE, env=environment) as server:
        try:
            asyncio.run(check(server))
        finally:
            server.kill()


def test_readers_that_read_nothing_do_not_stall_others(loaded: Running) -> None:
    async def slow() -> None:
        body: dict[str, object] = {"prompt": "a", "max_tokens": 250, "n": 16, "stream": True, "logprobs": 20}
        opened = [await connect(loaded, body) for _ in range(20)]
        for reader, _ in opened:
            await reader.readexactly(1)  # accepted
        response = await asyncio.to_thread(loaded.chat)
        assert response.json()["choices"][0]["message"]["content"] == ANSWER
        await asyncio.to_thread(loaded.wait_until_idle)  # the engine does not wait for readers
        for _, writer in opened:
            writer.close()

    asyncio.run(slow())
    loaded.wait_until_idle()
    until(lambda: len(loaded.server.server_state.connections) <= 1, "the end of the connections")
    assert threading.active_count() < 100


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_never_reads_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(answering, "SEND_TIMEOUT_S", 1.0)
    monkeypatch.setattr(server_of, "SEND_TIMEOUT_S", 1.0)
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, tmp_path / "model", chain_model(context_tokens=1024, width=64), key="6" * 64, alias="chat/latest")
    body: dict[str, object] = {"prompt": "a", "max_tokens": 1000, "n": 16, "stream": stream, "logprobs": 20}

    async def never_reads(server: Running) -> None:
        reader, writer = await connect(server, body)
        await asyncio.to_thread(until, lambda: server.server.serving.models.answers == 16, "the answers")
        await asyncio.to_thread(until, lambda: not server.server.server_state.connections, "the end of the connection")
        del reader
        writer.close()

    with running(store, slots=16) as server:
        asyncio.run(never_reads(server))
        server.wait_until_idle()
        assert server.chat().status_code == 200


def test_a_client_that_never_reads_does_not_keep_the_server_from_ending(loaded: Running, caplog: Any) -> None:
    async def end() -> None:
        body: dict[str, object] = {"prompt": "a", "max_tokens": 250, "n": 64, "stream": True, "logprobs": 20}
        _, writer = await connect(loaded, body)
        await asyncio.to_thread(until, lambda: loaded.server.serving.models.answers == 64, "the answers")
        await asyncio.to_thread(loaded.wait_until_idle)
        loaded.drain()
        await asyncio.to_thread(until, lambda: not loaded.server.server_state.connections, "the end of the connection")
        writer.close()

    asyncio.run(end())
    assert "Traceback" not in caplog.text
