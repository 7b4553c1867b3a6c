"""One connection of a client: uvicorn's, with limits of its own.

- A request has `HEADERS_S` and `MAX_HEADER_BYTES` for its headers; uvicorn limits neither. The bytes are limited also
  for a trailer and for the extension of a chunk, since the parser keeps them.
- Requests that a client sends before it has its answer (pipelining) are answered one after the other. Meanwhile the
  connection is read on, up to `MAX_PIPELINED_BYTES`, so that a client that hangs up is noticed.
- A client that has its answer before it has sent its whole request (413) may send on for `LINGER_S`: if the connection
  were closed at once, the client would see an error of the network instead of the answer.
- What is no HTTP gets an error in the envelope, too.

A client that closes its side of the connection has hung up, also if it would still read.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import TimerHandle
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from nanochat.serve.error_envelope import ApiError
from nanochat.serve.limits import HEADERS_S, LINGER_S, MAX_HEADER_BYTES, MAX_PIPELINED_BYTES


class Connection(HttpToolsProtocol):
    """A connection, from its first byte to its end. `config.limit_concurrency` is the number of connections."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most, self.limit_concurrency = self.limit_concurrency, None  # uvicorn's answer is not in the envelope
        self._running: RequestResponseCycle | None = None
        """The request that is being answered; `cycle` is the last one that was read."""
        self._deadline: TimerHandle | None = None
        self._begun = False
        """Whether a part of a request's headers has arrived."""
        self._kept_bytes = 0
        """What the parser may be keeping: received since it had a whole part of a request."""
        self._held = b""
        """What was received while requests wait."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self._refuse(ApiError(503, "The server has too many connections.", code="too_many_connections"))
        else:
            self._set_deadline(HEADERS_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._held += data
            if len(self._held) > MAX_PIPELINED_BYTES:
                self.transport.abort()
            return
        self._kept_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.resume_reading()  # uvicorn would not see that the client hangs up
        if self._kept_bytes > MAX_HEADER_BYTES:
            self._refuse(ApiError(431, f"The headers are larger than {MAX_HEADER_BYTES:,} bytes."))
        elif self.cycle is None or self.cycle.response_complete:
            if self._deadline is None:
                self._set_deadline(HEADERS_S)
        else:
            self._set_deadline(None)

    @property
    def _lingers(self) -> bool:
        """Whether the rest of a request comes that has been answered."""
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._begun, self._kept_bytes = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._kept_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._kept_bytes = 0
        if self._lingers:
            self.cycle.more_body = False
            self._set_deadline(HEADERS_S)
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._lingers:
            self._unset_keepalive_if_required()
            self._set_deadline(LINGER_S)
        elif self._begun and not self.pipeline:
            self._unset_keepalive_if_required()
            self._set_deadline(HEADERS_S)
        if not self.pipeline and self._held:
            data, self._held = self._held, b""
            self.data_received(data)

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg))

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if self._begun:
            self._refuse(ApiError(408, f"The headers did not arrive within {HEADERS_S:.0f} s."))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answers without the app, and closes the connection."""
        body = json.dumps(error.body()).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
