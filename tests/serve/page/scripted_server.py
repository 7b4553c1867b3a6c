"""A server that sends the chat page what a test wants: any bytes, at any moment, with any status.

    with scripted() as server:
        server.replies.append(Reply(status=429, headers={"Retry-After": "2"}))
        …                                   # the page sends a request, gets 429, and tries again
        server.requests[0]["messages"]

A request without a prepared reply gets its last message back, a word at a time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAGE = Path(__file__).parents[3] / "nanochat/serve/page/index.html"
MODEL = {
    "id": "chat/latest",
    "object": "model",
    "artifact": "sft/0123456789abcdef",
    "digest": "fedcba9876543210",
    "lineage": "/lineage/sft/0123456789abcdef",
    "max_model_len": 2048,
}


@dataclass
class Reply:
    """What one request to `/v1/chat/completions` gets."""

    reads: Sequence[bytes] = ()
    """Sent one after the other, with a pause in which the browser reads."""
    first_pause_s: float = 0.0
    """Before the first of them."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: str = ""
    """The message of an error in OpenAI's envelope."""
    unanswered: bool = False
    """Whether the response never begins."""
    unfinished: bool = False
    """Whether the response stays open after `reads`, until the page closes it."""


class ScriptedServer:
    """State that tests set and look at."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.closed_by_page = 0
        """Responses that the page closed before they were complete."""
        self.token = ""
        self.models_gate = threading.Event()
        """The response about the models, which is decided when the request arrives, waits for it."""
        self.models_gate.set()
        self.models: list[dict[str, Any]] = [MODEL]
        self.url = ""


def event(data: Any) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n".encode()


def chunk(content: str = "", finish: str | None = None, **delta: Any) -> bytes:
    """A chunk of a chat completion."""
    delta |= {"content": content} if content else {}
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def usage(prompt: int, answer: int) -> bytes:
    """The chunk with the numbers of tokens."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": answer}})


DONE = b"data: [DONE]\n\n"


def whole(*contents: str, finish: str = "stop") -> list[bytes]:
    """A complete answer."""
    return [*map(chunk, contents), chunk(finish=finish), usage(17, len(contents)), DONE]


@contextmanager
def scripted() -> Iterator[ScriptedServer]:
    """Runs the server on loopback."""
    state = ScriptedServer()
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/v1/models", _models),
            Route("/v1/chat/completions", _complete, methods=["POST"]),
            Route("/lineage/{reference:path}", lambda _: HTMLResponse("<h1>Lineage</h1>")),
        ]
    )
    app.state.script = state
    listener = socket.create_server(("127.0.0.1", 0))
    state.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _hashes(tag: str, page: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in blocks)


async def _page(_: Request) -> Response:
    page = PAGE.read_text()
    policy = (
        f"default-src 'none'; script-src {_hashes('script', page)}; style-src {_hashes('style', page)}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def _refused(request: Request) -> Response | None:
    token = request.app.state.script.token
    if not token or request.headers.get("authorization") == f"Bearer {token}":
        return None
    return JSONResponse({"error": {"message": "The token is missing or wrong.", "type": "authentication_error"}}, 401)


async def _models(request: Request) -> Response:
    script: ScriptedServer = request.app.state.script
    response = _refused(request) or JSONResponse({"object": "list", "data": script.models})
    while not script.models_gate.is_set():
        await asyncio.sleep(0.02)
    return response


async def _complete(request: Request) -> Response:
    script: ScriptedServer = request.app.state.script
    if refused := _refused(request):
        return refused
    body = await request.json()
    script.requests.append(body)
    reply = script.replies.pop(0) if script.replies else Reply(_echo(body["messages"][-1]["content"]))
    if reply.unanswered:
        await _closed(request)
        script.closed_by_page += 1
        return Response(status_code=499)  # the page does not get it
    if reply.status >= 400:
        return JSONResponse({"error": {"message": reply.error, "type": "error"}}, reply.status, reply.headers)
    headers = {"x-nanochat-artifact": MODEL["artifact"], **reply.headers}
    return StreamingResponse(_reads(request, script, reply), 200, headers, media_type="text/event-stream")


def _echo(text: str) -> list[bytes]:
    return whole("You wrote:", *(f" {word}" for word in text.split()))


async def _reads(request: Request, script: ScriptedServer, reply: Reply) -> AsyncIterator[bytes]:
    complete = False
    try:
        await asyncio.sleep(reply.first_pause_s)
        for each in reply.reads:
            yield each
            await asyncio.sleep(0.01)
        if reply.unfinished:
            await _closed(request)
        complete = not reply.unfinished
    finally:
        script.closed_by_page += not complete


async def _closed(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
