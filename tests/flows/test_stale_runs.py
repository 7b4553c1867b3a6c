"""Stale runs on a real server with a password: no state lasts forever, no file contains the password."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from nanochat import settings
from nanochat.errors import NanochatError

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed"),
]
LOGIN = "ada:l0velace-for-tests"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # `urlopen` keeps the proxies of its first call
QUICK = {
    "crashed_s": 0.0,
    "retry_delay_s": 0.0,
    "pending_s": 0.5,
    "heartbeat_timeout_s": 0.5,
    "never_started_s": 0.5,
    "unstartable_s": 0.5,
}


@dataclass
class Server:
    """A server that requires a login, with a deployment of its own and no worker."""

    home: Path
    api_url: str
    flow: str = ""
    count: int = 0

    def request(self, path: str, body: Any = None, method: str = "POST", login: str = LOGIN) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {b64encode(login.encode()).decode()}"}
        data = json.dumps(body if body is not None else {}).encode() if method != "GET" else None
        prepared = urllib.request.Request(f"{self.api_url}/{path}", data, headers, method=method)
        for attempt in range(20):
            try:
                with DIRECT.open(prepared) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == 19:  # SQLite is busy
                    raise
                time.sleep(0.5)
        return None

    def deployment(self, flow: str = "nanochat", **more: Any) -> str:
        """A deployment with a pool of its own."""
        self.count += 1
        pool = f"pool-{self.count}"
        self.request("work_pools/", {"name": pool, "type": "process"})
        flow_id = self.request("flows/", {"name": flow})["id"]
        body = {"name": f"d{self.count}", "flow_id": flow_id, "work_pool_name": pool, "entrypoint": "flows/x.py:x"}
        return self.request("deployments/", {**body, **more})["id"]

    def run(self, deployment: str, *states: str) -> str:
        run = self.request(f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
        for state in states:
            assert self.put(run, state)["status"] == "ACCEPT"
        return run

    def put(self, run: str, state: str, *, force: bool = False) -> Any:
        return self.request(
            f"flow_runs/{run}/set_state", {"state": {"type": state, "name": state.title()}, "force": force}
        )

    def state(self, run: str) -> dict[str, Any]:
        return self.request(f"flow_runs/{run}", method="GET")["state"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from flows.site.server import start_server

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", LOGIN)
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # local addresses bypass the proxy
        for name, value in settings.for_children().items():
            patch.setenv(name, value)
        with start_server(home, services=True) as starting:
            starting.wait(lambda _: None)
            yield Server(home, starting.api_url)


@pytest.fixture
def stale_runs(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    from flows.site.stale_runs import StaleRuns

    with temporary_settings({PREFECT_API_AUTH_STRING: LOGIN}):
        yield lambda **limits: StaleRuns(server.api_url, **{**QUICK, **limits})


def settle(server: Server, watch: Any, run: str, *wanted: str, limit_s: float = 60) -> tuple[dict[str, Any], list[str]]:
    """Checks until the run is in one of these states; returns the state, and the log lines about the run."""
    lines: list[str] = []
    name = server.request(f"flow_runs/{run}", method="GET")["name"]
    deadline = time.monotonic() + limit_s
    while (state := server.state(run))["type"] not in wanted:
        assert time.monotonic() < deadline, (state, lines)
        lines += [line for line in watch.check() if line.startswith(f"{name}: ")]
        time.sleep(0.2)
    return state, lines


def test_a_run_whose_worker_was_killed_before_it_started_frees_its_slot_and_restarts(
    server: Server, stale_runs: Any
) -> None:
    """And the limit of one that it held lets the next one go."""
    deployment = server.deployment(concurrency_limit=1)
    dead = server.run(deployment, "PENDING")
    waiting = server.run(deployment)
    assert server.put(waiting, "PENDING")["status"] != "ACCEPT", "the limit applies"
    watch = stale_runs()
    state, lines = settle(server, watch, dead, "CRASHED")
    assert "never started" in state["message"]
    assert [line for line in lines if "Crashed" in line] == lines
    state, _ = settle(server, watch, dead, "SCHEDULED")
    assert state["name"] == "AwaitingRetry"
    server.put(waiting, "SCHEDULED", force=True)
    assert server.put(waiting, "PENDING")["status"] == "ACCEPT", "its slot is free"
    server.put(waiting, "COMPLETED")


def test_a_run_that_crashes_before_its_flow_starts_fails_after_six(server: Server, stale_runs: Any) -> None:
    run = server.run(server.deployment())
    watch = stale_runs()
    for crash in range(1, 7):
        server.put(run, "PENDING")
        body = {"type": "CRASHED", "name": "Crashed", "message": f"ImportError {crash}."}
        server.request(f"flow_runs/{run}/set_state", {"state": body, "force": True})
        state, _ = settle(server, watch, run, "SCHEDULED", "FAILED")
        assert state["type"] == ("SCHEDULED" if crash < 6 else "FAILED"), crash
    assert state["message"] == "Crashed 6 times; the last time: ImportError 6. Retry restarts it."
    assert server.request(f"flow_runs/{run}", method="GET")["run_count"] == 0
    server.put(run, "SCHEDULED", force=True)
    server.put(run, "PENDING")
    server.put(run, "CRASHED")
    assert settle(server, watch, run, "SCHEDULED", "FAILED")[0]["type"] == "SCHEDULED", "Retry means another six"


def test_a_cancellation_in_the_first_instant_ends(server: Server, stale_runs: Any) -> None:
    run = server.run(server.deployment(), "PENDING", "CANCELLING")
    watch = stale_runs(repeat_cancel_s=0.3)
    state, lines = settle(server, watch, run, "CANCELLED")
    assert "none of its processes were running" in state["message"]
    assert len(lines) == len(set(lines)) <= 2
    assert watch.check() == []


def test_a_process_that_starts_after_its_run_was_cancelled_does_nothing(server: Server) -> None:
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from flows.pipeline import nanochat_flow

    run = server.run(server.deployment(), "PENDING", "CANCELLED")
    with temporary_settings({PREFECT_API_AUTH_STRING: LOGIN, PREFECT_API_URL: server.api_url}):
        with get_client(sync_client=True) as client:
            late = client.read_flow_run(UUID(run))
        run_flow(nanochat_flow, flow_run=late, parameters={"profile": "nope"}, return_type="state")
    state = server.state(run)
    assert (state["type"], state["message"]) == ("CANCELLED", "It was cancelled before it began.")


def test_a_cancellation_that_a_live_run_ignores_is_repeated_and_logged_once(server: Server, stale_runs: Any) -> None:
    run = server.run(server.deployment(), "PENDING", "RUNNING", "CANCELLING")
    watch = stale_runs(repeat_cancel_s=0.2, never_started_s=3.0, heartbeat_timeout_s=60.0)
    _, lines = settle(server, watch, run, "CANCELLED")
    history = server.request(f"flow_run_states/?flow_run_id={run}", method="GET")
    assert sum(state["name"] == "Cancelling" for state in history) > 1
    assert sum("repeated" in line for line in lines) == 1


@pytest.mark.parametrize("gone", ["deployment", "work queue"])
def test_a_run_that_cannot_start_fails_with_the_reason(server: Server, stale_runs: Any, gone: str) -> None:
    deployment = server.deployment()
    run = server.run(deployment)
    pool = server.request(f"flow_runs/{run}", method="GET")["work_pool_name"]
    if gone == "deployment":  # it deletes scheduled runs too; a crashed one is scheduled later
        server.put(run, "PENDING")
        server.request(f"deployments/{deployment}", method="DELETE")
        server.request(
            f"flow_runs/{run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        )
    else:
        server.request(f"work_pools/{pool}", method="DELETE")
    state, _ = settle(server, stale_runs(), run, "FAILED")
    assert state["message"] == f"It cannot start: its {gone} is gone. `nanochat up` creates it."


def test_a_run_without_a_worker_waits_logs_that_once_and_fails_in_the_end(server: Server, stale_runs: Any) -> None:
    run = server.run(server.deployment())
    watch = stale_runs(repeat_cancel_s=0.3)
    lines: list[str] = []
    for _ in range(8):
        lines += watch.check()
        time.sleep(0.2)
    assert server.state(run)["type"] == "SCHEDULED"
    assert sum("waits for a worker" in line for line in lines) == len([line for line in lines if "waits" in line])
    assert (
        len([line for line in lines if line.startswith(server.request(f"flow_runs/{run}", method="GET")["name"])]) == 1
    )
    state, _ = settle(server, stale_runs(repeat_cancel_s=0.3, wait_s=1.0), run, "FAILED")
    assert "No worker has served its pool" in state["message"]


def test_a_killed_run_of_a_terminal_becomes_crashed_and_stays_so(server: Server, stale_runs: Any) -> None:
    """No worker can start it again; the same command does."""
    flow = server.request("flows/", {"name": "nanochat"})["id"]
    run = server.request("flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING", "name": "Running"}})["id"]
    watch = stale_runs()
    settle(server, watch, run, "CRASHED")
    for _ in range(4):
        watch.check()
        time.sleep(0.1)
    assert server.state(run)["type"] == "CRASHED"


def test_runs_of_other_people_are_left_alone(server: Server, stale_runs: Any) -> None:
    run = server.run(server.deployment("other-flow"), "PENDING")
    watch = stale_runs(pending_s=0.0)
    for _ in range(4):
        watch.check()
        time.sleep(0.1)
    assert server.state(run)["type"] == "PENDING"


def test_all_pages_of_runs_are_checked(server: Server, stale_runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.site.client.PAGE_SIZE", 2)
    deployment = server.deployment()
    runs = [server.run(deployment, "PENDING") for _ in range(5)]
    watch = stale_runs()
    assert {run["id"] for run in watch._runs()} >= set(runs)
    for run in runs:
        settle(server, watch, run, "CRASHED", "SCHEDULED")


def test_wrong_credentials_are_logged_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    from flows.site import stale_runs
    from flows.site.client import Api
    from flows.site.server_check import ServerRefuses, check_server

    monkeypatch.setattr(stale_runs, "CHECK_INTERVAL_S", 0.1)
    lines: list[str] = []
    ending = threading.Event()
    with temporary_settings({PREFECT_API_AUTH_STRING: "ada:wrong"}):
        with pytest.raises(ServerRefuses, match="refuses our credentials"):
            Api(server.api_url).get("admin/version")
        threading.Timer(2.0, ending.set).start()
        stale_runs.watch_runs(server.api_url, ending, lines.append)
    assert len(lines) == 1
    assert "refuses our credentials" in lines[0]
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ada:wrong")
    with pytest.raises(NanochatError, match="PREFECT_API_AUTH_STRING"):
        check_server(server.api_url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    check_server(server.api_url)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    check_server(server.api_url.replace("://", f"://{LOGIN}@"))


@pytest.mark.parametrize("address", ["http://127.0.0.1:port/api", "127.0.0.1:4200/api", "http://[::1/api", "x"])
def test_an_invalid_address_is_one_sentence(address: str) -> None:
    from flows.site.server_check import ServerUnavailable, check_server

    with pytest.raises(ServerUnavailable, match="does not answer"):
        check_server(address)


@pytest.mark.parametrize("command", [["run"], ["up"]])
@pytest.mark.parametrize("login", ["", "ada:wrong"])
def test_commands_report_a_refusal_in_one_sentence(
    server: Server, tmp_path: Path, command: list[str], login: str
) -> None:
    environment = {**os.environ, "NANOCHAT_HOME": str(tmp_path), "PREFECT_API_URL": server.api_url, "COLUMNS": "300"}
    environment.pop("PREFECT_SERVER_API_AUTH_STRING", None)
    environment |= {"PREFECT_API_AUTH_STRING": login} if login else {}
    done = subprocess.run(
        [sys.executable, "-m", "nanochat.cli", *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "refuses our credentials" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "wrong" not in done.stdout + done.stderr


def test_no_file_holds_the_password(server: Server) -> None:
    files = [path for path in server.home.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".db") for path in files)
    for path in files:
        assert LOGIN.partition(":")[2].encode() not in path.read_bytes(), path
        assert b64encode(LOGIN.encode()) not in path.read_bytes(), path
