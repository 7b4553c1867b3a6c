"""What the routes of one server share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from nanochat.serve.error_envelope import ApiError
from nanochat.serve.metrics import Metrics
from nanochat.serve.models import Models
from nanochat.serve.options import ServeOptions

DRAINING_RETRY_S = 10


@dataclass
class Serving:
    """The models, the metrics, and whether the server is ending."""

    options: ServeOptions
    models: Models
    metrics: Metrics
    draining: bool = False

    @property
    def ready(self) -> bool:
        return self.models.ready and not self.draining

    def refuse_if_draining(self) -> None:
        """Raises `ApiError`, 503, once the server is shutting down."""
        if self.draining:
            headers = {"Retry-After": str(DRAINING_RETRY_S)}
            raise ApiError(503, "The server is shutting down.", code="shutting_down", headers=headers)


def serving_of(http: Request) -> Serving:
    """The state of the server that got this request."""
    return http.app.state.serving
