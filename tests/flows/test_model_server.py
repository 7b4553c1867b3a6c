"""The model server of a site, without the rest of the site: waits, serves, comes back, ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from flows.site import supervised_process
from flows.site.model_server import log_path, model_server, wait_for_model
from flows.site.ports import ANY, free_port
from flows.site.supervised_process import SupervisedProcess
from nanochat.store.store import Store
from tests.serve.models import chain_model, publish
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the model server is supervised on Linux only"),
]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SupervisedProcess, str]]:
    """The process, before there is a model, and its address."""
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:password")
    monkeypatch.setattr(supervised_process, "RESTART_DELAY_S", 0.1)
    port, claim = free_port([ANY])
    with claim:
        process = model_server("chat/latest", port, tmp_path)
        process.ensure_running()
        yield process, f"http://127.0.0.1:{port}"
        process.stop()
        process.wait()


def server_of(process: SupervisedProcess) -> psutil.Process | None:
    assert process.process is not None
    try:
        return next(iter(psutil.Process(process.process.pid).children()), None)
    except psutil.NoSuchProcess:
        return None


def artifact(url: str) -> str:
    """The artifact that is served, or nothing while no server answers."""
    try:
        (model,) = httpx.get(f"{url}/v1/models").json()["data"]
    except httpx.HTTPError:
        return ""
    return model["artifact"] if model["ready"] else ""


def test_it_waits_for_a_model_follows_it_and_comes_back_when_it_is_killed(
    started: tuple[SupervisedProcess, str], tmp_path: Path
) -> None:
    process, url = started
    state = {"model": "chat/latest", "model_url": url}
    assert "starts when a run has made `chat/latest`" in wait_for_model(state, tmp_path, print)
    log = log_path(tmp_path)
    until(lambda: log.exists() and "waiting for the alias" in log.read_text(), "the server")
    server = until(lambda: server_of(process), "its process")
    assert not [name for name in server.environ() if name.startswith("PREFECT_")]

    store = Store((tmp_path / "store").as_uri(), tmp_path / "cache")
    publish(store, tmp_path / "first", chain_model(), key="1" * 64, alias="chat/latest")
    assert "its successors too" in wait_for_model(state, tmp_path, print)
    assert artifact(url) == f"sft/{'1' * 64}"
    publish(store, tmp_path / "second", chain_model(), key="2" * 64, alias="chat/latest")
    until(lambda: artifact(url) == f"sft/{'2' * 64}", "the next model")
    assert server_of(process) == server, "without a restart"

    os.kill(server.pid, signal.SIGKILL)

    def is_back() -> bool:
        process.ensure_running()
        return artifact(url) == f"sft/{'2' * 64}" and server_of(process) not in (None, server)

    until(is_back, "another process at the same address")
    last = server_of(process)
    assert last is not None
    process.stop()
    process.wait()
    assert not last.is_running()
