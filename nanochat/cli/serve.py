"""`nanochat serve`: chat models over HTTP, with OpenAI's API and a chat page."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from cyclopts import Parameter

from nanochat import settings
from nanochat.cli.app import StoreUrl, app, between, err, open_store, out

EXAMPLE_QUESTION = "What is 3 plus 4?"


@app.command
def serve(
    *models: Annotated[
        str, Parameter(help="Aliases, `stage/key` or beginnings of keys; the first is the default. `chat/latest`.")
    ],
    host: Annotated[str, Parameter(help="Address to listen on; `0.0.0.0`: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, between(0, 65535), Parameter(help="0: any that is free.")] = 8000,
    follow: Annotated[
        list[str] | None,
        Parameter(negative="", help="An alias that is served too; when it moves, its new model replaces the old one."),
    ] = None,
    replicas: Annotated[int, between(1, 64), Parameter(help="Engines for each model; on GPUs, one for each.")] = 1,
    slots: Annotated[int, between(1, 1024), Parameter(help="Answers that one engine generates at once.")] = 32,
    queue: Annotated[
        int, between(0, 1 << 16), Parameter(help="Answers that may wait for an engine; more get the status 429.")
    ] = 128,
    weights: Annotated[
        Literal["fp32", "bf16", "int8"], Parameter(help="Precision of the weights; int8 is the smallest.")
    ] = "fp32",
    allow_host: Annotated[
        list[str] | None,
        Parameter(negative="", help="A host name by which clients reach the server; `*`: any. Repeatable."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        Parameter(negative="", help="An origin whose pages may use the server: `https://example.org`. Repeatable."),
    ] = None,
    drain_s: Annotated[float, between(0, 35), Parameter(help="Seconds for running answers after SIGTERM.")] = 30,
    store: StoreUrl = "",
) -> None:
    """Serve chat models over HTTP: OpenAI's API under `/v1`, and a chat page at `/`.

    Bearer tokens that clients must send are in `NANOCHAT_SERVE_TOKEN`, separated by commas.

    Example: `nanochat serve`, then open the page whose address it prints
    """
    from nanochat.serve.options import ServeOptions
    from nanochat.serve.server import serve as run

    tokens = settings.serve_tokens()
    options = ServeOptions(
        models=tuple(models) or (() if follow else ("chat/latest",)), follow=tuple(follow or ()), host=host, port=port,
        replicas=replicas, slots=slots, queue=queue, weights=weights, tokens=tokens,
        allow_hosts=tuple(allow_host or ()), cors_origins=tuple(cors_origin or ()), drain_s=drain_s,
    )  # fmt: skip

    def report(line: str) -> None:
        err.print(line, style="dim", markup=False)

    def ready(address: str) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": EXAMPLE_QUESTION}]})
        token = " -H 'Authorization: Bearer …'" if tokens else ""
        out.print(f"Chat:      {address}/", markup=False)
        out.print(f"API:       {address}/v1  (OpenAI's)", markup=False)
        out.print(
            f"Example:   curl {address}/v1/chat/completions -H 'Content-Type: application/json'{token} -d '{body}'",
            markup=False,
        )

    run(open_store(store, read_only=True), options, report, ready)
