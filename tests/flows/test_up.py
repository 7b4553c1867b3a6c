"""`nanochat up`: real server, real worker, real runs, and what remains when something is killed: nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.site.automations import FORMER_NAME, NAME
from flows.site.ports import ANY, free_port
from flows.site.server_check import ServerUnavailable
from flows.site.stale_runs import StaleRuns
from tests.flows.site import Site, ended, tiny, until, up

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.site,
    pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="workers are supervised on Linux only"),
]
PROJECT = Path(__file__).parents[2]
SECRET = "s3cr3t-for-tests"
SERVER_AWAY_S = 30


def soon() -> str:
    """In a few seconds, as Prefect writes times."""
    return (datetime.now(UTC) + timedelta(seconds=8)).isoformat()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with up(tmp_path_factory.mktemp("home"), AWS_SECRET_ACCESS_KEY=SECRET) as site:
        yield site


def test_all_deployments_are_there_and_up_again_renews_them(site: Site) -> None:
    wanted = {entry["name"] for entry in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]}
    assert {found["name"] for found in site.post("deployments/filter")} == wanted
    assert site.api_url.removesuffix("/api") in site.output
    assert "Up already" in site.nanochat("up")
    assert {found["name"] for found in site.post("deployments/filter")} == wanted
    assert site.post("automations/filter") == []


def test_an_automation_of_an_earlier_version_stays_until_a_webhook_replaces_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = {"type": "event", "expect": ["prefect.flow-run.Failed"], "posture": "Reactive", "threshold": 1}
    body = {"name": FORMER_NAME, "trigger": {**trigger, "within": 0}, "actions": [{"type": "do-nothing"}]}
    former = site.post("automations/", body)["id"]
    site.nanochat("up")
    assert [(each["id"], each["name"]) for each in site.post("automations/filter")] == [(former, FORMER_NAME)]
    monkeypatch.setenv("NANOCHAT_WEBHOOK", "http://127.0.0.1:9/hook")
    site.nanochat("up")
    assert [(each["id"], each["name"]) for each in site.post("automations/filter")] == [(former, NAME)]
    site.post(f"automations/{former}", method="DELETE")


def test_two_servers_that_start_at_once_have_ports_of_their_own() -> None:
    first, claim = free_port([4200, ANY])
    second, other_claim = free_port([4200, ANY])
    with claim, other_claim:
        assert first != second
        with pytest.raises(ServerUnavailable, match=f"The port {first} of 127.0.0.1 is not free"):
            free_port([first])
    again, claim = free_port([first])
    claim.close()
    assert again == first


def test_runs_of_people_go_before_scheduled_runs(site: Site) -> None:
    queues = {queue["name"]: queue for queue in site.post("work_pools/cpu/queues/filter")}
    assert queues["default"]["priority"] < queues["scheduled"]["priority"]
    assert queues["scheduled"]["concurrency_limit"] == 1
    queued = {found["name"]: found["work_queue_name"] for found in site.post("deployments/filter")}
    assert {name for name, queue in queued.items() if queue == "scheduled"} == {
        "nightly",
        "refresh",
        "verify-store",
        "gc",
    }


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"profile": "nope"}, "profile"),
        ({"config": {**tiny(), "sft": {**tiny()["sft"], "epochs": -1}}}, "config.sft.epochs"),
        ({"config": {**tiny(), "tokenizer": {"vocab_size": 12}}}, "config.tokenizer.vocab_size"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_starts(site: Site, parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        site.start(**parameters)
    assert f"'{named}'" in json.load(caught.value)["detail"]


def test_a_schedule_starts_a_run_and_one_from_the_form_finds_all_cached(site: Site) -> None:
    deployment = site.deployment("demo")
    # it fires again: a busy server may take it in when the first time has passed
    schedule = {"schedule": {"interval": 60, "anchor_date": soon()}, "active": True}
    (made,) = site.post(
        f"deployments/{deployment}/schedules", [{**schedule, "parameters": {"profile": "demo", "config": tiny()}}]
    )

    def fired() -> list[dict[str, Any]]:
        runs = site.post("flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})
        return [run for run in runs if run["auto_scheduled"] and run["state_type"] != "SCHEDULED"]

    until(fired, "the schedule", 180)
    site.post(f"deployments/{deployment}/schedules/{made['id']}", method="DELETE")
    until(lambda: all(ended(run) for run in fired()), "what it has started to end", 300)
    # on a busy machine it may have fired twice: two runs that want the same do it once
    messages = [run["state"]["message"] for run in fired()]
    computed = [int(message.split()[0]) for message in messages]
    assert (sum(computed), len(messages)) == (14, len(fired())), messages
    second = site.wait(site.start(profile="demo", config=tiny()), ended)
    assert (second["state_name"], second["state"]["message"]) == ("Cached", "0 computed, 14 cached")

    site.must_not_hold(SECRET)


def test_a_run_outlives_its_own_death_its_server_and_its_worker_and_a_cancel_leaves_nothing(site: Site) -> None:
    run_id = site.start(profile="demo", config=tiny("pretrain.horizon.amount=100000"))
    until(lambda: site.processes("nanochat.training"), "training")

    os.kill(int(site.run(run_id)["infrastructure_pid"]), signal.SIGKILL)
    site.wait(run_id, lambda run: run["run_count"] == 2 and run["state_name"] == "Running")
    until(lambda: site.processes("nanochat.training"), "training that goes on")

    until(lambda: "[rank 0] step" in site.log(run_id), "log lines of the ranks")

    (supervisor,) = site.processes("flows.site.supervisor")
    supervisor.suspend()  # it would restart the server at once
    for server in site.processes("flows.site.server"):
        server.kill()
    metrics = max(site.home.glob("runs/**/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    before = metrics.stat().st_size
    time.sleep(SERVER_AWAY_S)
    assert metrics.stat().st_size > before, "training waits for the server"
    supervisor.resume()
    until(lambda: site.run(run_id)["state_name"] == "Running", "the server to come back")
    assert site.processes("nanochat.training")

    for worker in site.processes("worker start"):
        if "nanochat.workers.supervisor" not in worker.cmdline():
            worker.kill()
    until(lambda: not site.processes("nanochat.training"), "what the worker had started to end")
    stale_runs = StaleRuns(site.api_url, heartbeat_timeout_s=2)
    until(stale_runs.check, "the dead run to be found")
    site.wait(run_id, lambda run: run["run_count"] == 3 and run["state_name"] == "Running")
    until(lambda: site.processes("nanochat.training"), "training that goes on again")

    site.post(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert site.wait(run_id, ended)["state_name"] == "Cancelled"
    until(lambda: not site.processes("nanochat.training"), "training to end")


def test_down_counts_the_runs_that_it_has_cancelled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a folder of its own, with names in it that are ours and Python's, from which nothing is imported."""
    folder = tmp_path_factory.mktemp("my project")
    for name in ("random", "json", "sitecustomize", "flows", "nanochat", "prefect", "torch"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name} of the working directory')")
    proxies = dict.fromkeys(("HTTP_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")  # no server listens there
    with up(Path("home"), folder=folder, **proxies) as site:
        assert site.home == folder / "home"
        (supervisor,) = site.processes("flows.site.supervisor")
        assert {
            process.environ()["NANOCHAT_HOME"] for process in [supervisor, *supervisor.children(recursive=True)]
        } == {str(site.home)}
        runs = [site.start(profile="demo", config=tiny("pretrain.horizon.amount=100000")) for _ in range(2)]
        for run in runs:
            site.wait(run, lambda run: run["state_name"] == "Running")
        elsewhere = Site(folder / "other").nanochat("down")
        assert "Nothing is up" in elsewhere and f"NANOCHAT_HOME='{site.home}' nanochat down" in elsewhere
    assert re.search(r"2 runs cancelled|1 run cancelled.* 1 did not end|2 did not end in time", site.last_output)
