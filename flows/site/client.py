"""Requests to a Prefect server through Prefect's own client.

That client implements logins and API keys, CSRF tokens, custom headers, certificates and retries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from flows.site.prefect_settings import load_settings, one_line
from flows.site.server_check import REFUSED, ServerRefuses, without_login

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PAGE_SIZE = 200
"""Entries of a list in one response; Prefect allows no more."""


class RequestFailed(OSError):
    """The server did not answer, or answered with an error."""


class Api:
    """Requests to one server."""

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url
        self._client: SyncPrefectClient | None = None

    def get(self, path: str) -> Any:
        """The JSON response to a GET; raises `RequestFailed` or `ServerRefuses`."""
        return self._request("GET", path, None)

    def post(self, path: str, **body: Any) -> Any:
        """The JSON response to a POST; raises `RequestFailed` or `ServerRefuses`."""
        return self._request("POST", path, body)

    def all(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """All entries of a list, requested page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.post(path, **body, limit=PAGE_SIZE, offset=len(found))
            found += page
            if len(page) < PAGE_SIZE:
                return found

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._connected()._client.request(method, f"/{path}", json=body)
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            if code in REFUSED:
                raise ServerRefuses(self.api_url) from error
            raise RequestFailed(f"{without_login(self.api_url)}/{path} answers {code}") from error
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            self._client = None
            raise RequestFailed(f"{without_login(self.api_url)} does not answer: {one_line(error)}") from error
        return response.json() if response.content else None

    def _connected(self) -> SyncPrefectClient:
        """One client for all requests: loading its certificates takes longer than a request."""
        if self._client is None:
            load_settings()
            from prefect.client.orchestration import SyncPrefectClient  # noqa: PLC0415 - 1.2 s
            from prefect.settings import get_current_settings  # noqa: PLC0415

            api = get_current_settings().api
            self._client = SyncPrefectClient(
                self.api_url,
                auth_string=api.auth_string.get_secret_value() if api.auth_string else None,
                api_key=api.key.get_secret_value() if api.key else None,
            )
        return self._client
