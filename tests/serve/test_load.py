"""Many clients at once, of which some hang up, wait, or read slowly: nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

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


def test_a_thousand_idle_connections_do_not_keep_others_from_their_answer(loaded: Running) -> None:
    async def idle() -> None:
        opened = [await asyncio.open_connection("127.0.0.1", port_of(loaded)) for _ in range(1200)]
        response = await asyncio.to_thread(loaded.chat)
        assert response.json()["choices"][0]["message"]["content"] == ANSWER
        for _, writer in opened:
            writer.close()

    asyncio.run(idle())


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
