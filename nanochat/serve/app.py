"""The web application: all routes, behind the checks of `access.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from nanochat.serve import chat_completions, completions, pages, status, tokenization
from nanochat.serve.access import Gate
from nanochat.serve.error_envelope import add_error_handlers
from nanochat.serve.serving import Serving

DESCRIPTION = "Chat models of nanochat, with the API of OpenAI."


def create_app(serving: Serving, background: Callable[[], Awaitable[None]]) -> ASGIApp:
    """The app; `background` runs as long as it does, and is cancelled at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.ensure_future(background())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await serving.models.close()

    app = FastAPI(
        title="nanochat", description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.serving = serving
    add_error_handlers(app)
    for module in (chat_completions, completions, tokenization, status, pages):
        app.include_router(module.router)
    gate = Gate(app, serving.options, serving.metrics)
    if not serving.options.cors_origins:
        return gate
    return CORSMiddleware(
        gate, allow_origins=serving.options.cors_origins, allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
        expose_headers=["X-Request-Id", "X-Nanochat-Artifact", "Retry-After"],
    )  # fmt: skip
