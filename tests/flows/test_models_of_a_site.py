"""`nanochat up --serve`: the model of each run is served at one address, without a restart."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.flows.site import Site, tiny, until, up

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.site,
    pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="the model server is supervised on Linux only"),
]
STARTED_S = 600


def server_of(site: Site) -> psutil.Process:
    """The process of `nanochat serve`, not the one that supervises it."""
    (found,) = [
        each for each in site.processes("nanochat.cli serve") if "workers.supervisor" not in str(each.cmdline())
    ]
    return found


def served(url: str) -> str:
    """Key of the artifact that is served, or nothing while no server answers."""
    try:
        models = httpx.get(f"{url}/v1/models").json()["data"]
    except httpx.HTTPError:
        return ""
    return models[0]["artifact"] if models[0]["ready"] else ""


def test_models_of_runs_are_served_and_a_killed_server_comes_back(tmp_path: Path) -> None:
    with up(tmp_path / "home", serve=True) as site:
        url = json.loads((site.home / "prefect" / "site.json").read_text())["model_url"]
        assert f"{url}   (starts when a run has made `chat/latest`)" in site.output
        until(lambda: "waiting for the alias" in (site.home / "prefect" / "serve.log").read_text(), "the server")

        assert site.done("demo", profile="demo", config=tiny())[0] == "Completed"
        first = until(lambda: served(url), "the first model", STARTED_S)
        process = server_of(site)
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text

        assert site.done("demo", profile="demo", config=tiny("sft.epochs=2"))[0] == "Completed"
        second = until(lambda: served(url) != first and served(url), "the next model", STARTED_S)
        assert server_of(site).pid == process.pid, "without a restart"

        process.send_signal(signal.SIGKILL)
        until(lambda: served(url) == second and server_of(site).pid != process.pid, "another server", STARTED_S)
        assert f"{url}   (chat/latest; its successors too)" in site.nanochat("up", "--serve")
        with pytest.raises(AssertionError, match="The running site serves `chat/latest`"):
            site.nanochat("up", "--serve", "chat/production")
