"""Checks of a Prefect server, against a small HTTP server that requires a login."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from flows.site.server_check import ServerRefuses, ServerUnavailable, check_server, is_healthy, without_login

LOGIN = "ada:l0velace"
try:
    INSTALLED = version("prefect")
except PackageNotFoundError:
    pytest.skip("prefect is not installed", allow_module_level=True)


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(307)
            self.send_header("Location", self.path.replace("/moved", "/api"))
            self.end_headers()
            return
        known = self.headers.get("Authorization") == f"Basic {b64encode(LOGIN.encode()).decode()}"
        self.send_response(200 if known else 401)
        self.end_headers()
        if known:
            self.wfile.write({"/api/health": b"true", "/api/admin/version": f'"{INSTALLED}"'.encode()}[self.path])

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not be used for this machine
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_login_comes_from_the_address_or_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_server(address.replace("://", f"://{LOGIN}@") + "/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    check_server(f"{address}/api")
    check_server(address.replace("://", "://ada:old@") + "/api")  # the environment has precedence
    assert is_healthy(f"{address}/moved")


def test_a_wrong_login_is_a_refusal_without_the_password(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerRefuses, match="refuses our credentials") as caught:
        is_healthy(address.replace("://", "://ada:wr0ng@") + "/api")
    assert "wr0ng" not in str(caught.value)
    monkeypatch.setenv("PREFECT_API_KEY", "wr0ng")
    with pytest.raises(ServerRefuses):
        check_server(f"{address}/api")


def test_an_older_server_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    monkeypatch.setattr("flows.site.server_check.version", lambda _: "99.1.0")
    with pytest.raises(ServerUnavailable, match=f"has version {INSTALLED}, older than the installed 99"):
        check_server(f"{address}/api")


@pytest.mark.parametrize("api_url", ["http://127.0.0.1:9/api", "http://[::1/api", "ftp://x/api", "x", ""])
def test_an_address_without_a_server_is_not_healthy(api_url: str) -> None:
    assert not is_healthy(api_url)


def test_a_login_is_removed_from_an_address() -> None:
    assert without_login("https://ada:secret@host:4200/api") == "https://host:4200/api"
