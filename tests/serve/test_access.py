"""Who may use the server: host names, tokens, origins, and the limits of a body."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator

import httpx
import openai
import pytest

from nanochat.serve import access
from nanochat.serve.limits import MAX_BODY_BYTES
from nanochat.store.store import Store
from tests.serve.models import ANSWER
from tests.serve.servers import Running, running
from tests.serve.test_parameters import error_of

TOKEN = "first-token"


@pytest.fixture(scope="module")
def guarded(store: Store) -> Iterator[Running]:
    with running(
        store, tokens=(TOKEN, "second-token"), allow_hosts=("chat.example",), cors_origins=("https://site.example",)
    ) as found:
        yield found


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "x@y"])
def test_a_host_name_that_is_not_ours_is_refused(server: Running, host: str) -> None:
    for path in ("/", "/v1/models", "/health"):
        error = error_of(server.http.get(path, headers={"host": host}), 403)
        assert error["code"] == "host_not_allowed"
        assert "--allow-host" in error["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "app.localhost", "127.0.0.1:9", "[::1]:9", "10.1.2.3"])
def test_names_of_this_machine_and_addresses_are_allowed(server: Running, host: str) -> None:
    assert server.http.get("/v1/models", headers={"host": host}).status_code == 200


def test_an_allowed_name_is_allowed(guarded: Running) -> None:
    assert guarded.http.get("/health", headers={"host": "chat.example"}).status_code == 200
    assert guarded.http.get("/health", headers={"host": "chat2.example"}).status_code == 403


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer wrong", f"Token {TOKEN}", f"Bearer {TOKEN}x", "Basic !!"]
)
def test_without_the_token_all_but_page_and_probes_is_refused(guarded: Running, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value}
    for path in ("/v1/models", "/metrics", "/openapi.json", "/lineage/sft/0", "/none"):
        response = guarded.http.get(path, headers=headers)
        assert error_of(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"].startswith("Basic" if "lineage" in path else "Bearer")
    for path in ("/", "/health", "/ready"):
        assert guarded.http.get(path, headers=headers).status_code == 200


def test_each_token_is_accepted(guarded: Running) -> None:
    for token in (TOKEN, "second-token"):
        with openai.OpenAI(base_url=f"{guarded.address}/v1", api_key=token, max_retries=0) as api:
            answer = api.chat.completions.create(
                model="chat/latest", messages=[{"role": "user", "content": "Hi"}], temperature=0
            )
            assert answer.choices[0].message.content == ANSWER
    wrong = openai.OpenAI(base_url=f"{guarded.address}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_a_browser_opens_the_lineage_with_the_token_as_password(guarded: Running) -> None:
    value = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    path = f"/lineage/sft/{'0' * 64}"
    assert guarded.http.get(path, headers={"authorization": f"Basic {value}"}).status_code == 200


def test_only_named_origins_may_read_answers(guarded: Running, server: Running) -> None:
    def preflight(of: Running, origin: str) -> httpx.Response:
        headers = {"origin": origin, "access-control-request-method": "POST",
                   "access-control-request-headers": "authorization,content-type"}  # fmt: skip
        return of.http.options("/v1/chat/completions", headers=headers)

    allowed = preflight(guarded, "https://site.example")
    assert allowed.headers["access-control-allow-origin"] == "https://site.example"
    assert "access-control-allow-origin" not in preflight(guarded, "https://other.example").headers
    assert preflight(server, "https://site.example").status_code == 405
    answered = server.http.get("/v1/models", headers={"origin": "https://site.example"})
    assert "access-control-allow-origin" not in answered.headers


def test_a_page_of_another_site_cannot_send_a_form(server: Running) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        error_of(server.http.post("/v1/chat/completions", content=body, headers={"content-type": kind}))


def test_a_body_that_is_too_large_is_refused_whether_or_not_it_has_a_length(server: Running) -> None:
    headers = {"content-type": "application/json"}
    body = b" " * (MAX_BODY_BYTES + 1)
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    for content in (body, pieces):
        error = error_of(server.http.post("/v1/chat/completions", content=content, headers=headers), 413)
        assert error["code"] == "request_too_large"
    assert server.chat().status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_BODY_S", 0.3)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in connection.recv(4096)


def test_every_response_has_a_request_id(server: Running) -> None:
    for path in ("/health", "/none", "/v1/models"):
        assert re.fullmatch("[0-9a-f]{32}", server.http.get(path).headers["x-request-id"])
    assert server.http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert server.http.get("/health", headers={"x-request-id": "<b>"}).headers["x-request-id"] != "<b>"


def test_clients_with_other_tokens_share_no_cached_prefix(server: Running) -> None:
    def cached(token: str) -> int:
        before = server.engines[0].statistics.prompt_tokens_cached
        body = {"prompt": "once upon a time " * 10, "max_tokens": 1}
        headers = {"authorization": f"Bearer {token}"} if token else {}
        assert server.http.post("/v1/completions", json=body, headers=headers).status_code == 200
        return server.engines[0].statistics.prompt_tokens_cached - before

    assert cached("one") == 0
    assert cached("two") == 0
    assert cached("") == 0
    assert cached("one") > 0
