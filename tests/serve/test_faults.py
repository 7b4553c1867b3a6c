"""Engines that fail, a store that goes away, and aliases that move to what cannot be served: what runs goes on."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import NanochatError
from nanochat.serve import following, loading, models, replica
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store
from tests.disk_faults import FAULTS, watched
from tests.faults import Fault, faulty
from tests.serve.models import ANSWER, TOKENIZER, chain_model, ids, publish
from tests.serve.servers import Breaking, Running, load_breaking, running
from tests.serve.test_parameters import error_of
from tests.waiting import until

OTHER = (ids("<|assistant_start|>", "NEW", "<|assistant_end|>"), ids("a", "b", "a"))
ALIAS = "chat/production"
FOLLOWING: dict[str, Any] = {"follow": (ALIAS,), "models": (ALIAS,), "follow_every_s": 0.02}


class Panic(BaseException):
    """As pyo3's exception for a panic of native code, which is no `Exception`."""


@pytest.fixture
def own_store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    publish(store, tmp_path / "first", chain_model(), key="1" * 64, alias=ALIAS)
    return store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are started again soon."""
    monkeypatch.setattr(replica, "RESTART_DELAYS_S", (0.0, 0.05))
    monkeypatch.setattr(models, "WATCH_EVERY_S", 0.05)


def states(server: Running) -> list[str]:
    return [each["state"] for each in server.http.get("/health").json()["models"][0]["replicas"]]


def answer_of(server: Running) -> str:
    return server.chat().json()["choices"][0]["message"]["content"]


# --- engines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [Panic("a panic"), MemoryError(), RuntimeError("CUDA error")], ids=repr)
def test_an_engine_that_ends_with_any_exception_is_started_again(own_store: Store, problem: BaseException) -> None:
    with running(own_store, load_breaking, models=(ALIAS,)) as server:
        engine: Breaking = server.engines[0]
        engine.problem = problem
        assert error_of(server.chat(), 503)["type"] == "server_error"
        until(lambda: states(server) == ["ready"], "the engine")
        assert answer_of(server) == ANSWER


def test_a_request_that_breaks_the_engine_as_it_is_taken_gets_an_error(own_store: Store) -> None:
    with running(own_store, load_breaking, models=(ALIAS,)) as server:
        engine: Breaking = server.engines[0]

        def submit(request: object) -> int:
            raise ValueError("broken for a test")

        engine.submit = submit  # type: ignore[method-assign]
        assert error_of(server.chat(), 503)["type"] == "server_error"
        until(lambda: states(server) == ["ready"], "the engine")
        assert answer_of(server) == ANSWER


def test_while_one_replica_fails_the_answers_of_others_go_on(own_store: Store) -> None:
    with running(own_store, load_breaking, models=(ALIAS,), replicas=2) as server, ThreadPoolExecutor(2) as pool:
        for engine in server.engines:
            engine.gate.clear()
        running_answers = [pool.submit(server.complete, "a", max_tokens=40) for _ in range(2)]
        until(lambda: all(engine.has_work for engine in server.engines), "an answer on each")
        server.engines[0].problem = Panic("a panic")
        for engine in server.engines:
            engine.gate.set()
        assert sorted(each.result().status_code for each in running_answers) == [200, 503]
        until(lambda: states(server) == ["ready", "ready"], "the engine")


def load_once(working: int) -> tuple[Callable[..., Any], list[Breaking]]:
    """Loads so many engines, and fails from then on."""
    loaded: list[Breaking] = []

    def load(*arguments: Any) -> Breaking:
        if len(loaded) >= working:
            raise NanochatError("The GPU is gone.")
        loaded.append(load_breaking(*arguments))
        return loaded[-1]

    return load, loaded


@pytest.mark.usefixtures("quick")
def test_without_any_engine_that_can_be_started_again_the_server_ends_with_a_message(
    own_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    load, loaded = load_once(1)
    with running(own_store, load, models=(ALIAS,)) as server:
        loaded[0].problem = Panic("a panic")
        assert server.chat().status_code == 503
        until(lambda: server.server.error, "the end")
        assert "No engine runs" in str(server.server.error)
        until(lambda: server.server.should_exit, "the end")
    assert "cannot be started again: The GPU is gone." in caplog.text


@pytest.mark.usefixtures("quick")
def test_with_an_engine_left_the_server_goes_on_and_health_shows_what_is_missing(own_store: Store) -> None:
    load, loaded = load_once(2)
    with running(own_store, load, models=(ALIAS,), replicas=2) as server:
        loaded[0].problem = Panic("a panic")
        until(lambda: server.chat().status_code == 503, "the failure")
        broken = server.server.serving.models.replicas()[0]
        until(lambda: broken.failed_loads > models.MAX_FAILED_LOADS, "failed loads")
        assert states(server) == ["failed", "ready"]
        assert server.http.get("/health").json()["status"] == "degraded"
        assert server.http.get("/ready").status_code == 200
        assert answer_of(server) == ANSWER


def test_an_engine_is_started_again_from_files_that_are_checked_again(own_store: Store, tmp_path: Path) -> None:
    with running(own_store, load_breaking, models=(ALIAS,)) as server:
        shutil.move(tmp_path / "store" / "v1" / "artifacts", tmp_path / "away")
        server.engines[0].problem = Panic("a panic")
        assert server.chat().status_code == 503
        until(lambda: states(server) == ["failed"], "a failed load")
        shutil.move(tmp_path / "away", tmp_path / "store" / "v1" / "artifacts")
        until(lambda: states(server) == ["ready"], "the engine")
        assert answer_of(server) == ANSWER


# --- aliases --------------------------------------------------------------------------------------------------------


def not_a_model(store: Store, folder: Path) -> Manifest:
    folder.mkdir()
    (folder / "report.html").write_text("a report")
    return store.publish(
        folder, stage="report", stage_version=1, kind="Report", key="2" * 64, config={}, inputs={}, metrics={},
        producer=store.resolve(ALIAS).producer,
    )  # fmt: skip


def damaged(store: Store, folder: Path) -> Manifest:
    manifest = publish(store, folder, chain_model(OTHER), key="3" * 64)
    weights = Path(store.objects.local_path(manifest.payload_folder) or "") / "model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(b"nothing")
    return manifest


def newer(store: Store, folder: Path) -> Manifest:
    from nanochat.model.files import save_model

    save_model(folder, chain_model(OTHER))
    TOKENIZER.save(folder / "vocabulary.json")
    content = json.loads((folder / "model.json").read_text())
    content["model"]["attention_sinks"] = 4
    (folder / "model.json").write_text(json.dumps(content))
    return store.publish(
        folder, stage="sft", stage_version=9, kind="Model", key="4" * 64, config={}, inputs={}, metrics={},
        producer=store.resolve(ALIAS).producer,
    )  # fmt: skip


def too_large(store: Store, folder: Path) -> Manifest:
    return publish(store, folder, chain_model(OTHER, context_tokens=512), key="5" * 64)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (not_a_model, "`chat/production` is a Report, not a model."),
        (damaged, "is damaged"),
        (newer, "newer version"),
        (too_large, "memory"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_alias_that_moves_to_what_cannot_be_served_is_one_line_and_the_old_model_stays(
    own_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Store, Path], Manifest], sentence: str,
) -> None:  # fmt: skip
    caplog.set_level(logging.WARNING, "nanochat.serve")
    good = own_store.resolve(ALIAS)
    with running(own_store, **FOLLOWING) as server:
        if make is too_large:
            monkeypatch.setattr(loading, "available_memory_bytes", lambda: 1 << 20)
        own_store.set_alias(ALIAS, make(own_store, tmp_path / "second"))
        until(lambda: "stays at 111111111111" in caplog.text, "the message")
        (message,) = (record.getMessage() for record in caplog.records)
        assert sentence in message
        assert "\n" not in message
        assert 'nanochat:follow_failing{model_name="chat/production"} 1.0' in server.http.get("/metrics").text
        assert server.http.get("/health").json()["models"][0]["follow_failing"] is True
        assert answer_of(server) == ANSWER
        own_store.set_alias(ALIAS, good)
        until(lambda: "is followed again" in caplog.text, "the second message")
        assert len(caplog.records) == 2
        assert 'nanochat:follow_failing{model_name="chat/production"} 0.0' in server.http.get("/metrics").text


def test_a_model_that_cannot_be_loaded_is_tried_again_less_and_less_often(
    own_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[str] = []

    def load(artifact: Any, *arguments: Any) -> Any:
        tries.append(artifact.key)
        if len(tries) in (2, 3):
            raise MemoryError
        return load_breaking(artifact, *arguments)

    with running(own_store, load, **FOLLOWING) as server:
        publish(own_store, tmp_path / "second", chain_model(OTHER), key="2" * 64, alias=ALIAS)
        until(lambda: answer_of(server) == "NEW", "the model")
    assert len(tries) == 4
    assert caplog.text.count("stays at") == 1
    assert "is followed again" in caplog.text


def test_following_survives_an_unexpected_error(
    own_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(own_store, **FOLLOWING) as server:
        find = Store.resolve

        def fail(*_: object) -> Manifest:
            raise KeyError(str(object()))  # another text each time

        monkeypatch.setattr(Store, "resolve", fail)
        until(lambda: "stays at" in caplog.text, "the message")
        monkeypatch.setattr(Store, "resolve", find)
        publish(own_store, tmp_path / "second", chain_model(OTHER), key="2" * 64, alias=ALIAS)
        until(lambda: answer_of(server) == "NEW", "the model")
    assert caplog.text.count("stays at") == 1


def test_waits_grow_up_to_a_limit() -> None:
    waits = [following._delay_s(5, failures, 60) for failures in (0, 1, 2, 3, 4, 100, 10_000)]
    assert waits == [5, 10, 20, 40, 60, 60, 60]
    assert following._delay_s(120, 3, 60) == 120


# --- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.s3
@pytest.mark.slow
def test_answers_go_on_while_an_s3_store_is_away_and_the_alias_is_followed_when_it_is_back(
    s3_server: dict[str, str], root_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    away = threading.Event()

    def fault(_: int) -> Fault:
        return "drop" if away.is_set() else ""

    with faulty(s3_server["AWS_ENDPOINT_URL"], fault, lambda method, path: True) as (address, _):
        direct = Store(root_s3, tmp_path / "other cache")
        publish(direct, tmp_path / "first", chain_model(), key="1" * 64, alias=ALIAS)
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with running(Store(root_s3, tmp_path / "cache", read_only=True), **FOLLOWING) as server:
            away.set()
            publish(direct, tmp_path / "second", chain_model(OTHER), key="2" * 64, alias=ALIAS)
            until(lambda: "stays at" in caplog.text, "the message")
            assert answer_of(server) == ANSWER
            assert server.http.get("/ready").status_code == 200
            away.clear()
            until(lambda: answer_of(server) == "NEW", "the model")
    assert caplog.text.count("stays at") == 1
    assert caplog.text.count("is followed again") == 1


# --- the disk ---------------------------------------------------------------------------------------------------------

(NO_SPACE,) = (fault for fault in FAULTS if fault.name == "ENOSPC")


def test_with_a_store_in_a_folder_the_server_writes_nothing(own_store: Store, tmp_path: Path) -> None:
    with watched(tmp_path, choose=lambda call: NO_SPACE) as calls, running(own_store, **FOLLOWING) as server:
        assert answer_of(server) == ANSWER
        for path in ("/", "/metrics", f"/lineage/sft/{'1' * 64}"):
            assert server.http.get(path).status_code == 200
    assert not [call for call in calls if call.kind in NO_SPACE.calls]


def test_a_log_on_a_full_disk_does_not_stop_the_server(own_store: Store, tmp_path: Path) -> None:
    def report(line: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with running(own_store, report=report, **FOLLOWING) as server:
        publish(own_store, tmp_path / "second", chain_model(OTHER), key="2" * 64, alias=ALIAS)
        until(lambda: answer_of(server) == "NEW", "the model")


@pytest.mark.s3
def test_on_a_full_disk_the_copy_of_a_model_is_one_clear_error_and_the_old_model_stays(
    root_s3: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = threading.Event()
    store, cache = Store(root_s3, tmp_path / "other cache"), tmp_path / "cache"
    publish(store, tmp_path / "first", chain_model(), key="1" * 64, alias=ALIAS)
    with watched(cache, choose=lambda call: NO_SPACE if full.is_set() else None):
        with running(Store(root_s3, cache, read_only=True), **FOLLOWING) as server:
            full.set()
            publish(store, tmp_path / "second", chain_model(OTHER), key="2" * 64, alias=ALIAS)
            until(lambda: "stays at" in caplog.text, "the message")
            assert "No space left" in caplog.text
            assert answer_of(server) == ANSWER
            full.clear()
            until(lambda: answer_of(server) == "NEW", "the model")
        assert caplog.text.count("stays at") == 1
        full.set()
        shutil.rmtree(cache)
        with (
            pytest.raises(AssertionError, match="No space left"),
            running(Store(root_s3, cache, read_only=True), models=(ALIAS,)),
        ):
            pass
