"""What every HTTP request has to pass: the host name, the bearer token, and the limits of the body.

A page of another site may reach this machine's loopback under a host name of its own (DNS rebinding), so only known
names are allowed; IP addresses are, because no name leads to them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.error_envelope import ApiError
from nanochat.serve.limits import MAX_BODY_BYTES, MAX_BODY_S
from nanochat.serve.metrics import Metrics
from nanochat.serve.options import ServeOptions

OPEN_PATHS = {"/", "/health", "/ready"}
"""Paths without a token: the page has no secrets, and probes have no token."""
PAGES = "/lineage/"
"""Pages that a browser opens: it can send the token as the password of HTTP's basic authentication."""
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Gate:
    """ASGI middleware around the app."""

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._hosts = {options.host.lower(), *(host.lower() for host in options.allow_hosts)}
        self._tokens = [_digest(token) for token in options.tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        async def send_with_number(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = number
                if message["status"] >= 400:
                    self._metrics.count_error(message["status"])
            await send(message)

        if scope["method"] == "HEAD":  # the answer to GET; uvicorn, which has the original scope, leaves the body out
            scope = {**scope, "method": "GET"}
        refused = self._refusal(scope["path"], headers)
        if refused is not None:
            await refused.response()(scope, receive, send_with_number)
        else:
            await self._app(scope, _limited(headers, receive), send_with_number)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        host = _host_name(headers.get("host", ""))
        if not self._is_allowed(host):
            return ApiError(
                403,
                f"The host name `{host[:100]}` is not allowed; start the server with `--allow-host`, and this name.",
                code="host_not_allowed",
            )
        if self._tokens and path not in OPEN_PATHS and not self._has_token(headers.get("authorization", "")):
            challenge = 'Basic realm="nanochat"' if path.startswith(PAGES) else "Bearer"
            return ApiError(
                401, "The bearer token is missing or wrong.", code="invalid_api_key",
                headers={"WWW-Authenticate": challenge},
            )  # fmt: skip
        return None

    def _is_allowed(self, host: str) -> bool:
        if host in self._hosts or "*" in self._hosts or host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def _has_token(self, authorization: str) -> bool:
        """Compares with every token, in a time that does not depend on the result."""
        kind, _, value = authorization.partition(" ")
        if kind.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif kind.lower() != "bearer":
            return False
        given = _digest(value.strip())
        return any([hmac.compare_digest(given, each) for each in self._tokens])


def cache_salt(http: Request) -> str:
    """A salt for the prefix cache: clients with different tokens share nothing, whether or not tokens are checked."""
    authorization = http.headers.get("authorization", "")
    return _digest(authorization).hex() if authorization else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _host_name(header: str) -> str:
    """The name in a `Host` header, without the port and the brackets of an IPv6 address."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _limited(headers: Headers, receive: Receive) -> Receive:
    """Receives a body up to its limits of size and time. Raises `HTTPException` beyond."""
    length = headers.get("content-length", "0")
    declared = int(length) if length.isdecimal() and len(length) < 20 else MAX_BODY_BYTES + 1
    received_bytes, complete = 0, False
    deadline = time.monotonic() + MAX_BODY_S
    too_large = HTTPException(413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.")

    async def limited() -> Message:
        nonlocal received_bytes, complete
        if complete:
            return await receive()
        if declared > MAX_BODY_BYTES:
            raise too_large
        try:
            async with asyncio.timeout(max(0, deadline - time.monotonic())):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"The body did not arrive within {MAX_BODY_S:.0f} s.") from None
        received_bytes += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if received_bytes > MAX_BODY_BYTES:
            raise too_large
        return message

    return limited
