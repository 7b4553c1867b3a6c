"""The server of models in a site: `nanochat serve`, which follows an alias."""

import time
from pathlib import Path
from typing import Any

import httpx

from flows.site import prefect_environment
from flows.site.server import START_TIMEOUT_S, Log
from flows.site.supervised_process import SupervisedProcess
from nanochat import settings
from nanochat.errors import NanochatError, NotFound
from nanochat.store.store import Store

DRAIN_S = 15.0
"""Time for running answers; its process supervisor kills it after 20 s."""
POLL_S = 0.2


def model_server(model: str, port: int, folder: Path) -> SupervisedProcess:
    """`nanochat serve` on a port of loopback. It waits until the alias exists."""
    options = ["--follow", model, "--port", str(port), "--drain-s", f"{DRAIN_S:g}"]
    return SupervisedProcess(
        ["nanochat.cli", "serve", *options], log_path(folder), prefect_environment.for_model_server
    )


def log_path(folder: Path) -> Path:
    """The output of the model server."""
    return folder / "serve.log"


def wait_for_model(state: dict[str, Any], folder: Path, log: Log) -> str:
    """Waits until the server answers; returns how it is. Without the alias, it starts later.

    Raises `NanochatError` if it does not start.
    """
    model, url = state["model"], state["model_url"]
    try:
        Store(settings.store_url(), settings.home() / "cache", read_only=True).resolve(model)
    except NotFound:
        return f"{url}   (starts when a run has made `{model}`)"
    began = logged = time.monotonic()
    with httpx.Client(trust_env=False) as client:
        while not _is_ready(client, url):
            if time.monotonic() - began > START_TIMEOUT_S:
                raise NanochatError(f"The server of `{model}` did not start.", hint=f"See `{log_path(folder)}`.")
            if time.monotonic() - logged > 3:
                logged = time.monotonic()
                log(f"The server of `{model}` is starting ({logged - began:.0f} s).")
            time.sleep(POLL_S)
    return f"{url}   ({model}; its successors too)"


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/ready").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
