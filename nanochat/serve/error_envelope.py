"""Errors in OpenAI's envelope: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from nanochat.errors import NanochatError
from nanochat.failures import traceback_text

LOG = logging.getLogger("nanochat.serve")
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
BODY = {"body", "query", "path"}
"""The first part of a validation error's location, which is not part of the parameter's name."""


class ErrorFields(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorFields


class ApiError(Exception):
    """An error that a client gets."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The envelope."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be answered: 400."""
    return ApiError(400, message, param=param, code=code)


def add_error_handlers(app: FastAPI) -> None:
    """Makes the app answer every exception with an envelope."""
    app.add_exception_handler(ApiError, _from_api_error)
    app.add_exception_handler(RequestValidationError, _from_validation)
    app.add_exception_handler(HTTPException, _from_http)
    app.add_exception_handler(NanochatError, _from_nanochat)
    app.add_exception_handler(Exception, _from_bug)


def _from_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


def _from_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return invalid("The body is not valid JSON.", code="invalid_json").response()
    where = [str(part) for part in first["loc"] if part not in BODY]
    if not where:
        return invalid(
            "The body must be a JSON object, with the header `Content-Type: application/json`.", code="invalid_body"
        ).response()
    path = ".".join(where)
    return invalid(f"`{path}`: {first['msg'][:1].lower()}{first['msg'][1:]}.", where[0]).response()


def _from_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"There is no `{request.url.path[:200]}` here.",
        405: f"`{request.url.path[:200]}` does not take {request.method}.",
        400: "The body cannot be read as JSON.",
    }
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, code=CODES.get(error.status_code), headers=error.headers).response()


def _from_nanochat(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NanochatError)
    return as_api_error(error).response()


def _from_bug(request: Request, error: Exception) -> JSONResponse:
    LOG.error("%s %s failed:\n%s", request.method, request.url.path, traceback_text(error))
    return ApiError(500, "The server failed; its log has the details.", code="internal_error").response()


def as_api_error(error: NanochatError) -> ApiError:
    """A mistake of the client, or 503 for a failure that may pass."""
    return ApiError(503 if error.transient else 400, str(error))
