"""Runs the server: the socket, the signals, the end.

On SIGTERM or Ctrl-C the server answers new requests with 503, finishes those that run, and ends with exit code 0. A
second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec

import uvicorn

from nanochat.errors import BadConfig, NanochatError, NotFound
from nanochat.failures import to_nanochat_error
from nanochat.serve.app import create_app
from nanochat.serve.connection import Connection
from nanochat.serve.limits import SEND_TIMEOUT_S
from nanochat.serve.metrics import Metrics
from nanochat.serve.models import LoadEngine, Models, Report
from nanochat.serve.options import ServeOptions
from nanochat.serve.serving import Serving
from nanochat.store.store import Store

P = ParamSpec("P")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BACKLOG = 2048
MAX_OPEN_FILES = 1 << 16
RESERVED_FILES = 128
"""Open files that are no connections: those of a model that is loaded, of the store, of the libraries."""
KEEP_ALIVE_S = 75
CLOSING_S = 5
"""Seconds for responses whose answers are finished, but not read yet."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `BadConfig`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError):  # a name that is no name, such as one with control characters
        raise BadConfig(f"There is no address `{host}`.", hint="`--host 127.0.0.1`, or `0.0.0.0` for all.") from None
    except OSError as error:
        hints = {
            errno.EADDRINUSE: (f"The port {port} is used by another program.", "Choose another with `--port`."),
            errno.EACCES: (f"You may not use the port {port}.", "Choose one above 1023 with `--port`."),
            errno.EADDRNOTAVAIL: (f"This machine has no address `{host}`.", "Use one of its own, or `0.0.0.0`."),
        }
        if error.errno not in hints:
            raise
        message, hint = hints[error.errno]
        raise BadConfig(message, hint=hint) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # the kernel drops connections whose client reads nothing
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_TIMEOUT_S * 1000))
    return listening


class Server(uvicorn.Server):
    """uvicorn's server that loads the models, and drains at its end."""

    def __init__(
        self, store: Store, options: ServeOptions, load: LoadEngine, report: Report, on_ready: Callable[[], None]
    ) -> None:
        """Raises `NotFound` if there is no such model.

        The server goes on if no one reads what it reports, or if the disk of its log is full.
        """
        report, on_ready = _without_errors(report), _without_errors(on_ready)
        models = Models(store, options, load, report)
        self.serving = Serving(options, models, Metrics(models))
        self.error: NanochatError | None = None
        self._report, self._on_ready = report, on_ready
        self._draining: asyncio.Task[None] | None = None
        app = create_app(self.serving, self._background)
        super().__init__(
            uvicorn.Config(
                app, http=Connection, lifespan="on", ws="none", log_config=None, access_log=False, server_header=False,
                proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=2 * CLOSING_S,
            )
        )  # fmt: skip

    def run_on(self, listening: socket.socket) -> None:
        """Serves until a signal arrives. Raises the error of a model that cannot be loaded, or of its last engine."""
        self.config.limit_concurrency = _most_connections()
        with listening:
            self.run(sockets=[listening])
        if self.error is not None:
            raise self.error

    async def _background(self) -> None:
        try:
            await self.serving.models.load_all()
            self._on_ready()
            await self.serving.models.follow()
        except Exception as error:  # noqa: BLE001 - `run_on` raises it
            self.error = to_nanochat_error(error)
            self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Our handlers instead of uvicorn's, which would end streams."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.drain, number)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the connections of clients that do not read; uvicorn would log a traceback for each."""
        closing = asyncio.get_running_loop().call_later(CLOSING_S, self._abort_connections)
        await super().shutdown(sockets)
        closing.cancel()

    def _abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def drain(self, number: int = signal.SIGTERM) -> None:
        """Begins the end; the second time, ends at once."""
        if self._draining is not None:
            os._exit(128 + number)
        self.serving.draining = True
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        options = self.serving.options
        if answers := self.serving.models.answers:
            self._report(f"finishing {answers} answers, for at most {options.drain_s:.0f} s")
        try:
            async with asyncio.timeout(options.drain_s):
                await self.serving.models.finish()
        except TimeoutError:
            await self.serving.models.close()  # what still runs ends with an error
        self.should_exit = True


def _without_errors(call: Callable[P, None]) -> Callable[P, None]:
    def called(*arguments: P.args, **options: P.kwargs) -> None:
        with suppress(OSError):
            call(*arguments, **options)

    return called


def _most_connections() -> int:
    """Raises the limit of open files, which a connection is, as far as this user may; returns what is left for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    return max(files - RESERVED_FILES, files // 2)


def wait_for_aliases(store: Store, options: ServeOptions, report: Report) -> None:
    """Returns when every followed alias exists: the first run that makes it may still be training."""
    for name in options.follow:
        reported = False
        while True:
            try:
                store.resolve(name)
                break
            except NotFound as error:
                if not reported:
                    report(f"waiting for the alias `{name}`: {error.message}")
                reported = True
            time.sleep(options.follow_every_s)


def serve(store: Store, options: ServeOptions, report: Report, on_ready: Callable[[str], None]) -> None:
    """Serves the models of a store until a signal arrives; `on_ready` gets the server's address.

    Waits for followed aliases that do not exist yet. Raises a `NanochatError`: no such model, the port is taken, a
    model cannot be loaded.
    """
    wait_for_aliases(store, options, report)
    from nanochat.serve.loading import load_engine  # noqa: PLC0415 - imports torch: 2 s, after the cheap checks

    with listen(options.host, options.port) as listening:
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}"
        Server(store, options, load_engine, report, lambda: on_ready(address)).run_on(listening)
