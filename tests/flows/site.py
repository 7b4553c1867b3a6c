"""A site for the tests: what `nanochat up` makes, and nothing of it left when `nanochat down` has ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nanochat.config.overrides import override
from nanochat.profiles import profile
from tests.test_whole_chain import TINY

PROJECT = Path(__file__).parents[2]


def tiny(*changes: str) -> dict[str, Any]:
    return override(profile("demo").config, [*TINY, *changes]).model_dump(mode="json")


@dataclass
class Site:
    """What `nanochat up` made."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    api_url: str = ""
    output: str = ""
    last_output: str = ""
    """By `nanochat down`."""
    folder: Path | None = None
    """Where commands are given; a relative home is below it."""

    def __post_init__(self) -> None:
        self.given_home = self.home
        self.home = (self.folder or Path.cwd()) / self.home

    def nanochat(self, *arguments: str) -> str:
        environment = {**os.environ, "NANOCHAT_HOME": str(self.given_home), "COLUMNS": "200", **self.environment}
        environment.pop("PREFECT_API_URL", None)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "nanochat.cli", *arguments],
            capture_output=True, text=True, env={**environment, "PYTHONPATH": str(PROJECT)}, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.api_url}/{path}") as answer:
            return json.load(answer)

    def post(self, path: str, body: Any = None, method: str = "POST") -> Any:
        data = json.dumps(body if body is not None else {}).encode()
        while True:
            request = urllib.request.Request(
                f"{self.api_url}/{path}", data, {"Content-Type": "application/json"}, method=method
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503:  # SQLite is busy; Prefect's own client repeats the request too
                    raise
            time.sleep(0.5)

    def deployment(self, name: str) -> str:
        return next(found["id"] for found in self.post("deployments/filter") if found["name"] == name)

    def start(self, deployment: str = "demo", **parameters: Any) -> str:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.post(f"deployments/{self.deployment(deployment)}/create_flow_run", body)["id"]

    def done(self, deployment: str, **parameters: Any) -> tuple[str, str]:
        """Name and message of the state in which a run of a deployment ends."""
        run = self.wait(self.start(deployment, **parameters), ended)
        return run["state_name"], run["state"]["message"]

    def run(self, run_id: str) -> dict[str, Any]:
        return self.get(f"flow_runs/{run_id}")

    def log(self, run_id: str) -> str:
        """The newest lines of the run's log."""
        query = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_DESC"}
        return "\n".join(line["message"] for line in self.post("logs/filter", query))

    def wait(self, run_id: str, wanted: Callable[[dict[str, Any]], bool], limit_s: float = 900) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.update(self.run(run_id))
            return wanted(seen)

        try:
            until(reached, f"run {run_id}", limit_s)
        except AssertionError as error:
            logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in self.home.glob("prefect/*.log"))
            states = [(state["name"], state["message"]) for state in self.get(f"flow_run_states/?flow_run_id={run_id}")]
            raise AssertionError(f"{error}: {states}\n{logs}") from error
        return seen

    def processes(self, word: str) -> list[psutil.Process]:
        """Those of this home whose command line has a word."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("NANOCHAT_HOME") == str(self.home)
                if ours and word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def must_not_hold(self, secret: str) -> None:
        for path in self.home.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), f"{path} holds a secret"


@contextmanager
def up(
    home: Path, *, gpu: bool = False, serve: bool = False, folder: Path | None = None, **environment: str
) -> Iterator[Site]:
    """A site on this home for as long as the block lasts; fails when something of it remains.

    `gpu`: it serves the pool `gpu` too, whether or not there is one. `serve`: it has a model server.
    """
    site = Site(home, environment, folder=folder)
    try:
        site.output = site.nanochat("up", "--gpu" if gpu else "--no-gpu", *(["--serve"] if serve else []))
        site.api_url = json.loads((site.home / "prefect" / "site.json").read_text())["api_url"]
        yield site
    finally:
        output = site.last_output = site.nanochat("down")
        left = [(process.pid, process.cmdline()) for process in site.processes("")]
        for process in site.processes(""):
            process.kill()
        assert not left, f"processes are left: {left}"
    assert "Down." in output
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(site.api_url.split(":")[2].split("/")[0])))
    assert "Nothing is up in" in site.nanochat("down")


def until(reached: Callable[[], Any], what: str, limit_s: float = 180) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            if found := reached():
                return found
        except OSError:  # the server is away
            pass
        time.sleep(0.2)
    raise AssertionError(f"waited {limit_s} s for {what}")


def ended(run: dict[str, Any]) -> bool:
    return run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
