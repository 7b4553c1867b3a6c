"""Responses in the OpenAPI description."""

from __future__ import annotations

from typing import Any

from nanochat.serve.error_envelope import ErrorEnvelope

ERRORS = {
    400: "The request cannot be answered: `param` names the field.",
    401: "The bearer token is missing or wrong.",
    403: "The host name is not allowed.",
    404: "There is no such model or path.",
    405: "The path does not take this method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "The queue is full: `Retry-After` has the seconds.",
    503: "The model is being loaded, or the server is shutting down.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": meaning} for status, meaning in ERRORS.items()
}
GENERATION_RESPONSES: dict[int | str, dict[str, Any]] = {
    **RESPONSES,
    200: {
        "description": "The answer; with `stream`, server-sent events that end with `[DONE]`.",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
}
