"""Clients that hang up, full queues, engines that fail, aliases that move, a store that goes away."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from nanochat.errors import DamagedArtifact, NotFound
from nanochat.serve.loading import load_engine
from nanochat.serve.options import ServeOptions
from nanochat.serve.server import Server
from nanochat.store.store import Store
from tests.serve.models import ANSWER, chain_model, ids, publish
from tests.serve.servers import Breaking, Running, load_breaking, running
from tests.serve.test_chat_completions import events
from tests.serve.test_parameters import error_of
from tests.waiting import until

OTHER = (ids("<|assistant_start|>", "NEW", "<|assistant_end|>"), ids("a", "b", "a"))


@pytest.fixture
def own_store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, tmp_path / "first", chain_model(), key="1" * 64, alias="chat/production")
    return store


@pytest.fixture
def breaking(own_store: Store) -> Iterator[Running]:
    """A server with two slots, and two answers that may wait, whose engine a test can stop and break."""
    with running(own_store, load_breaking, models=("chat/production",), slots=2, queue=2) as found:
        yield found
        for engine in found.engines:
            engine.gate.set()


def engine_of(server: Running) -> Breaking:
    return server.engines[0]


def open_request(server: Running, **fields: Any) -> socket.socket:
    """A connection on which a long completion was requested, and nothing read."""
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "a", "max_tokens": 240, "temperature": 0, **fields}).encode()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_slot_within_a_step(breaking: Running, stream: bool) -> None:
    engine = engine_of(breaking)
    engine.gate.clear()
    connections = [open_request(breaking, stream=stream) for _ in range(3)]  # two generate, one waits
    until(lambda: breaking.server.serving.models.answers == 3, "three requests")
    engine.gate.set()
    until(lambda: engine.statistics.running == 2 and engine.statistics.waiting == 1, "two slots in use")
    engine.gate.clear()
    for connection in connections:
        connection.close()
    until(lambda: breaking.server.serving.models.answers == 0, "the server to see it")
    generated = engine.statistics.generated_tokens
    engine.gate.set()
    breaking.wait_until_idle()
    assert engine.statistics.generated_tokens - generated <= 4  # at most the step that ran, and one for each slot


def test_a_full_queue_is_429_with_the_seconds_to_wait(breaking: Running) -> None:
    engine_of(breaking).gate.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(breaking.chat) for _ in range(4)]
        until(lambda: breaking.server.serving.models.answers == 4, "four answers")
        response = breaking.chat()
        assert error_of(response, 429)["code"] == "queue_full"
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert error_of(breaking.chat(stream=True), 429)["type"] == "rate_limit_error"
        engine_of(breaking).gate.set()
        assert [each.result().status_code for each in waiting] == [200] * 4
    assert breaking.chat().status_code == 200


def test_more_answers_than_the_queue_holds_are_generated_if_it_is_empty(breaking: Running) -> None:
    assert len(breaking.chat(n=10).json()["choices"]) == 10


def test_an_engine_that_fails_answers_with_an_error_and_is_loaded_again(
    breaking: Running, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(breaking)
    engine.step_s = 0.1
    with ThreadPoolExecutor(3) as pool:
        streamed = pool.submit(breaking.complete, "a", stream=True, max_tokens=200)
        whole = pool.submit(breaking.complete, "a", max_tokens=200)
        until(lambda: engine.statistics.running == 2, "two answers")
        engine.problem = RuntimeError("broken for a test")
        assert error_of(whole.result(), 503)["type"] == "server_error"
        last = [line for line in streamed.result().text.split("\n\n") if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    until(lambda: breaking.http.get("/ready").status_code == 200, "the engine")
    (replica,) = breaking.http.get("/health").json()["models"][0]["replicas"]
    assert replica == {"state": "ready", "answers": 0, "restarts": 1}
    assert "nanochat:engine_restarts_total" in breaking.http.get("/metrics").text
    assert breaking.chat().json()["choices"][0]["message"]["content"] == ANSWER
    assert "broken for a test" in caplog.text


def test_a_failure_in_the_middle_of_a_stream_is_an_event_that_the_client_raises(breaking: Running) -> None:
    with openai.OpenAI(base_url=f"{breaking.address}/v1", api_key="none", max_retries=0) as api:
        stream = api.completions.create(model="chat/production", prompt="a", max_tokens=250, temperature=0, stream=True)
        next(stream)
        engine_of(breaking).problem = RuntimeError("broken for a test")
        with pytest.raises(openai.APIError, match="The engine failed"):
            list(stream)


def test_while_the_engine_is_loaded_again_requests_are_503_and_health_shows_it(own_store: Store) -> None:
    again = threading.Event()
    loaded: list[Breaking] = []

    def load(*arguments: Any) -> Any:
        if loaded:
            again.wait()
        loaded.append(load_breaking(*arguments))
        return loaded[-1]

    with running(own_store, load, models=("chat/production",)) as server:
        loaded[0].problem = RuntimeError("broken for a test")
        assert server.chat().status_code == 503
        response = server.chat()
        assert error_of(response, 503)["code"] == "model_loading"
        assert response.headers["retry-after"]
        assert server.http.get("/ready").status_code == 503
        health = server.http.get("/health")
        assert health.status_code == 200
        assert health.json()["status"] == "degraded"
        assert health.json()["models"][0]["replicas"][0]["state"] == "restarting"
        again.set()
        until(lambda: server.http.get("/ready").status_code == 200, "the engine")
        assert server.chat().status_code == 200


def test_while_models_are_loaded_the_server_answers_that_it_is_not_ready(own_store: Store) -> None:
    proceed = threading.Event()
    seen: dict[str, Any] = {}

    def load(*arguments: Any) -> Any:
        proceed.wait()
        return load_engine(*arguments)

    def probe(address: str) -> None:
        def get(path: str) -> httpx.Response | None:
            try:
                return httpx.get(f"{address}{path}", timeout=300)
            except httpx.TransportError:
                return None

        until(lambda: get("/health"), "the server")
        for path in ("/health", "/ready", "/v1/models"):
            seen[path] = get(path)
        seen["chat"] = httpx.post(
            f"{address}/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]}, timeout=300
        )
        proceed.set()

    with running(own_store, load, on_address=probe, models=("chat/production",)) as server:
        assert seen["/health"].json()["status"] == "loading"
        assert error_of(seen["/ready"], 503)["code"] == "model_loading"
        assert error_of(seen["chat"], 503)["code"] == "model_loading"
        assert seen["/v1/models"].json()["data"][0]["ready"] is False
        assert server.chat().status_code == 200
        assert server.lines[0].startswith("loading chat/production (sft/1111")


def engine_threads() -> set[threading.Thread]:
    """Those that run, also of other servers."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("engine-")}


def test_a_followed_alias_that_moves_brings_its_new_model_and_running_answers_finish(
    own_store: Store, tmp_path: Path
) -> None:
    before_it = engine_threads()
    with running(
        own_store, load_breaking, models=("chat/production",), follow=("chat/production",), follow_every_s=0.05
    ) as server:
        old = engine_of(server)
        old.gate.clear()
        with ThreadPoolExecutor(1) as pool:
            before = pool.submit(server.complete, "a", max_tokens=8)
            until(lambda: server.server.serving.models.answers == 1, "an answer of the old model")
            publish(own_store, tmp_path / "second", chain_model(OTHER), key="2" * 64, alias="chat/production")
            until(lambda: server.http.get("/v1/models").json()["data"][0]["artifact"] == f"sft/{'2' * 64}", "the model")
            response = server.chat()
            assert response.json()["choices"][0]["message"]["content"] == "NEW"
            assert response.headers["x-nanochat-artifact"] == f"sft/{'2' * 64}"
            old.gate.set()
            assert before.result().json()["choices"][0]["text"] == "bcdeabcd"
            assert before.result().headers["x-nanochat-artifact"] == f"sft/{'1' * 64}"
        until(lambda: len(engine_threads() - before_it) == 1, "the end of the old engine")


def test_a_store_that_goes_away_or_a_damaged_model_is_logged_once_and_the_old_model_stays(
    own_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "nanochat.serve")
    aliases = tmp_path / "store" / "v1" / "aliases"
    with running(own_store, models=("chat/production",), follow=("chat/production",), follow_every_s=0.02) as server:
        shutil.move(aliases, tmp_path / "away")
        until(lambda: "stays at 111111111111" in caplog.text, "the message")
        assert server.chat().status_code == 200
        shutil.move(tmp_path / "away", aliases)
        damaged = publish(own_store, tmp_path / "second", chain_model(OTHER), key="3" * 64)
        weights = tmp_path / "store" / damaged.payload_folder / "model.safetensors"
        weights.chmod(0o600)
        weights.write_bytes(b"nothing")
        own_store.set_alias("chat/production", damaged)
        until(lambda: caplog.text.count("stays at") >= 2, "the second message")
        assert server.chat().json()["choices"][0]["message"]["content"] == ANSWER
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == len(set(messages))


def test_requests_go_to_the_replica_with_the_fewest_answers(own_store: Store) -> None:
    with running(own_store, load_breaking, models=("chat/production",), replicas=2) as server:
        for engine in server.engines:
            engine.gate.clear()
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(server.chat) for _ in range(6)]
            until(lambda: server.server.serving.models.answers == 6, "six answers")
            assert [replica.answers for replica in server.server.serving.models.replicas()] == [3, 3]
            for engine in server.engines:
                engine.gate.set()
            assert all(each.result().status_code == 200 for each in answers)


def test_several_models_are_served_by_their_names(own_store: Store, tmp_path: Path) -> None:
    publish(own_store, tmp_path / "second", chain_model(OTHER), key="2" * 64, alias="chat/other")
    with running(own_store, models=("chat/production", "chat/other", "sft/1111")) as server:
        assert [model["id"] for model in server.http.get("/v1/models").json()["data"]] == [
            "chat/production", "chat/other", "sft/1111",
        ]  # fmt: skip
        found = {name: server.chat(model=name).json()["choices"][0]["message"]["content"] for name in
                 ("chat/production", "chat/other", "sft/1111")}  # fmt: skip
        assert found == {"chat/production": ANSWER, "chat/other": "NEW", "sft/1111": ANSWER}


def test_a_name_without_a_model_is_refused_before_anything_starts(own_store: Store) -> None:
    with pytest.raises(NotFound, match="`chat/none`"):
        Server(own_store, ServeOptions(models=("chat/none",)), load_engine, print, print)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_error(own_store: Store) -> None:
    def load(*_: Any) -> Any:
        raise DamagedArtifact("The weights are damaged.")

    with (
        pytest.raises(AssertionError, match="The weights are damaged"),
        running(own_store, load, models=("chat/production",)),
    ):
        pass


def test_at_its_end_the_server_refuses_new_requests_and_finishes_those_that_run(breaking: Running) -> None:
    engine = engine_of(breaking)
    engine.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        streamed = pool.submit(breaking.complete, "a", stream=True, max_tokens=200)
        whole = pool.submit(breaking.chat)
        until(lambda: breaking.server.serving.models.answers == 2, "two answers")
        breaking.drain()
        until(lambda: breaking.server.serving.draining, "the end to begin")
        assert error_of(breaking.http.get("/ready"), 503)["code"] == "shutting_down"
        refused = breaking.chat()
        assert error_of(refused, 503)["code"] == "shutting_down"
        assert refused.headers["retry-after"]
        assert breaking.http.get("/health").json()["status"] == "draining"
        engine.gate.set()
        texts = [chunk["choices"][0]["text"] for chunk in events(streamed.result().text)]
        assert "".join(texts) == "bcdea" * 40
        assert whole.result().json()["choices"][0]["message"]["content"] == ANSWER
