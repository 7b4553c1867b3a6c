"""A real server in a thread, on a free port of the loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from nanochat.errors import NanochatError
from nanochat.inference.engine import Engine
from nanochat.serve.loading import load_engine
from nanochat.serve.models import LoadEngine
from nanochat.serve.options import ServeOptions
from nanochat.serve.server import Server, listen
from nanochat.store.store import Store
from tests.waiting import until


class Running:
    """A server that answers."""

    def __init__(self, server: Server, address: str, lines: list[str]) -> None:
        self.server, self.address, self.lines = server, address, lines
        self.http = httpx.Client(base_url=address, timeout=300)

    def chat(self, text: str = "Hi", **fields: Any) -> httpx.Response:
        """A chat completion, greedy unless the fields differ."""
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def complete(self, prompt: Any, **fields: Any) -> httpx.Response:
        """A completion, greedy unless the fields differ."""
        return self.http.post("/v1/completions", json={"prompt": prompt, "temperature": 0, **fields})

    @property
    def engines(self) -> list[Any]:
        """The engines that run."""
        return [replica.engine for replica in self.server.serving.models.replicas() if replica.engine]

    def drain(self) -> None:
        """What a signal does."""
        loop = self.server.serving.models.replicas()[0].loop
        loop.call_soon_threadsafe(self.server.drain)

    def wait_until_idle(self) -> None:
        """Waits until every slot is free."""
        until(
            lambda: (
                all(not each.statistics.running and not each.statistics.waiting for each in self.engines)
                and not self.server.serving.models.answers
            ),
            "free slots",
        )


@contextmanager
def running(
    store: Store,
    load: LoadEngine = load_engine,
    on_address: Callable[[str], None] | None = None,
    report: Callable[[str], None] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """A server of the store's models, once it is ready; `on_address` gets its address before."""
    lines: list[str] = []
    ready = threading.Event()
    server = Server(store, ServeOptions(port=0, **options), load, report or lines.append, ready.set)
    listening = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def run() -> None:
        with suppress(NanochatError):  # `server.error` has it
            server.run_on(listening)

    thread = threading.Thread(target=run)
    thread.start()
    if on_address:
        on_address(address)
    found = Running(server, address, lines)
    try:
        until(lambda: ready.is_set() or not thread.is_alive(), "the server")
        assert ready.is_set(), server.error
        yield found
    finally:
        found.http.close()
        server.should_exit = True
        thread.join()


class Breaking:
    """An engine that fails when it is made to, or that waits before each step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.problem: BaseException | None = None
        """What the next step raises."""
        self.step_s = 0.0
        self.gate = threading.Event()
        self.gate.set()

    def step(self) -> Any:
        self.gate.wait()
        time.sleep(self.step_s)
        if self.problem is not None:
            raise self.problem
        return self._engine.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def load_breaking(*arguments: Any) -> Any:
    """Loads an engine that a test can break."""
    return Breaking(load_engine(*arguments))
