"""`nanochat up` and `nanochat down`: a Prefect server, workers and all deployments on this machine.

`up` starts the site supervisor (`supervisor.py`), waits until server and workers are healthy, and deploys
`prefect.yaml` (`deploy.py`). A second call only renews deployments and automations. A model server is optional.
"""

import os
import shlex
import subprocess  # noqa: TID251 - the supervisor is not a child of a stage
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from flows.site import prefect_environment, supervised_process, supervisor
from flows.site.client import Api
from flows.site.model_server import wait_for_model
from flows.site.prefect_settings import load_settings
from flows.site.server import START_TIMEOUT_S, STOP_TIMEOUT_S, Log
from flows.site.server_check import ServerUnavailable, check_server, is_healthy, without_login
from flows.site.supervisor import read_state
from nanochat import settings
from nanochat.errors import NanochatError

PROJECT = Path(__file__).parents[2]
SUPERVISORS = ("flows.site.supervisor", "flows.site.keeper", "flows.keeper")  # plain-words: ok
"""Module of the site supervisor, and its names in earlier versions."""
POLL_S = 0.2
CANCEL_TIMEOUT_S = 25.0


def up(log: Log, *, gpu: bool, model: str = "") -> None:
    """Returns when runs can be started.

    `gpu`: this machine also runs the worker of the pool `gpu`. `model`: an alias that is served with `nanochat serve`,
    which starts when the alias exists. Raises `NanochatError` when the server, a worker or a deployment fails.
    """
    if not (PROJECT / "prefect.yaml").exists():
        raise NanochatError(
            "There is no `prefect.yaml` beside the flows: this is an installed package, not a clone of the project.",
            hint="`nanochat up` needs a clone.",
        )
    home = settings.home()
    folder = home / "prefect"
    state = read_state(folder)
    if state is None:
        serve = [supervisor.SERVE_OPTION, model] if model else []
        state = _start_supervisor(home, ["cpu", *(["gpu"] if gpu else []), *serve], log)
        try:
            _deploy(state, folder, log)
        except BaseException:  # an error or Ctrl-C: no half-started site stays behind
            _end_supervisor(folder, state["pid"])
            raise
    else:
        if model and state.get("model", "") != model:
            served = f"serves `{state['model']}`" if state.get("model") else "has no model server"
            raise NanochatError(f"The running site {served}.", hint="Call `nanochat down` first.")
        state = _wait_for_start(lambda: read_state(folder) is not None, state["pid"], folder, log) or _fail(folder)
        log("Up already; deployments and automations are renewed.")
        _deploy(state, folder, log)


def _deploy(state: dict[str, Any], folder: Path, log: Log) -> None:
    api_url, pools = (prefect_environment.api_url() if state["named"] else "") or state["api_url"], state["pools"]
    prefect_environment.configure_client(api_url, folder)
    load_settings()
    check_server(api_url, own=not state["named"])
    from flows.site.deploy import deploy  # noqa: PLC0415 - Prefect reads its settings on import

    made = deploy()
    _wait_for_workers(Api(api_url), pools, folder, log)
    log(f"prefect     {without_login(api_url).removesuffix('/api')}")
    log(f"workers     {', '.join(pools)}" + ("" if "gpu" in pools else "   (no GPU here: runs in the pool `gpu` wait)"))
    log(f"deployments {', '.join(made.deployments)}")
    if state.get("model_url"):
        log(f"model       {wait_for_model(state, folder, log)}")
    if not made.notified:
        log("webhook     none; set `NANOCHAT_WEBHOOK=https://…` before `nanochat up` to be notified of failed runs")
    log("\nStart a run from that page, or with `nanochat run`. `nanochat down` ends the site.")


def down(log: Log) -> None:
    """Cancels the runs of the workers, and ends workers and server. Raises `NanochatError` if they do not end."""
    folder = settings.home() / "prefect"
    state = read_state(folder)
    if state is None:
        log(f"Nothing is up in {settings.home()}.")
        for other in other_homes():
            log(f"Up in {other}: `NANOCHAT_HOME={shlex.quote(str(other))} nanochat down` ends that site.")
        return
    found = cancelled = 0
    if state["api_url"] and not state["named"]:  # on a shared server, another machine may continue the runs
        try:
            prefect_environment.configure_client(state["api_url"], folder)
            found, cancelled = _cancel_runs(Api(state["api_url"]))
        except (NanochatError, OSError) as error:  # the workers are ended all the same
            log(f"Runs were not cancelled; they end with their workers: {error}")
    _end_supervisor(folder, state["pid"])
    log(" ".join(["Down.", *_cancel_summary(found, cancelled)]))


def _cancel_summary(found: int, cancelled: int) -> list[str]:
    runs = f"{cancelled} run{'s' if cancelled != 1 else ''}"
    lines = [f"{runs} cancelled; finished stages are kept."] if cancelled else []
    if left := found - cancelled:
        lines.append(f"{left} did not end in time, and ended with {'their workers' if left > 1 else 'its worker'}.")
    return lines


def _end_supervisor(folder: Path, pid: int) -> None:
    """Returns when the whole site has ended. `pid` is the process that holds the lock."""
    try:
        process = psutil.Process(pid)
        process.terminate()
        process.wait(supervised_process.STOP_TIMEOUT_S + 2 * STOP_TIMEOUT_S)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired as error:
        raise NanochatError(
            f"The site supervisor (process {pid}) does not end.", hint=f"See `{_log_path(folder)}`."
        ) from error


def other_homes() -> list[Path]:
    """Homes of this user's running site supervisors."""
    homes: set[Path] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError, IndexError):
            command = process.cmdline()
            if process.uids().real == os.getuid() and len(command) > 3 and command[2] in SUPERVISORS:
                homes.add(Path(command[3]))
    return sorted(homes)


def _log_path(folder: Path) -> Path:
    return folder / "supervisor.log"


def _start_supervisor(home: Path, arguments: list[str], log: Log) -> dict[str, Any]:
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with _log_path(folder).open("wb") as log_file:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", SUPERVISORS[0], str(home), *arguments],
            stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, start_new_session=True, cwd=folder,
            env=settings.for_children(),
        )  # fmt: skip
    try:
        return _wait_for_start(lambda: process.poll() is None, process.pid, folder, log) or _fail(folder)
    except BaseException:
        _end_supervisor(folder, process.pid)
        raise


def _fail(folder: Path) -> NoReturn:
    path = _log_path(folder)
    last = (path.read_text(errors="replace").strip().splitlines() or ["no message"])[-1] if path.exists() else "no log"
    raise ServerUnavailable(f"Prefect did not start: {last}", hint=f"See `{path}` and `{folder / 'server.log'}`.")


def _wait_for_start(lives: Callable[[], bool], pid: int, folder: Path, log: Log) -> dict[str, Any] | None:
    """The supervisor's state when its server answers; none when the supervisor ended, or the start takes too long."""
    began = logged = time.monotonic()
    while lives() and time.monotonic() - began < START_TIMEOUT_S:
        state = read_state(folder)
        if state is not None and state["pid"] == pid and is_healthy(state["api_url"]):
            return state
        if time.monotonic() - logged > 3:
            logged = time.monotonic()
            log(f"The Prefect server is starting ({logged - began:.0f} s; its first start takes longest).")
        time.sleep(POLL_S)
    return None


def _wait_for_workers(api: Api, pools: list[str], folder: Path, log: Log) -> None:
    began = logged = time.monotonic()
    for pool in pools:
        while not any(worker["status"] == "ONLINE" for worker in api.post(f"work_pools/{pool}/workers/filter")):
            if time.monotonic() - began > START_TIMEOUT_S:
                raise ServerUnavailable(
                    f"The worker for the pool `{pool}` did not start.", hint=f"See `{folder / f'worker-{pool}.log'}`."
                )
            if time.monotonic() - logged > 3:
                logged = time.monotonic()
                log(f"The worker for the pool `{pool}` is starting ({logged - began:.0f} s).")
            time.sleep(POLL_S)


def _cancel_runs(api: Api) -> tuple[int, int]:
    """Cancels the active runs of deployments; returns how many there were, and how many became *Cancelled* in time."""
    active = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}, "deployment_id": {"is_null_": False}}
    ids = [run["id"] for run in api.all("flow_runs/filter", flow_runs=active)]
    state = {"type": "CANCELLING", "name": "Cancelling", "message": "`nanochat down`"}
    for run_id in ids:
        api.post(f"flow_runs/{run_id}/set_state", state=state)
    these = {"id": {"any_": ids}}
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while ids and time.monotonic() < deadline and api.post("flow_runs/filter", flow_runs={**active, **these}):
        time.sleep(POLL_S)
    cancelled = {**these, "state": {"type": {"any_": ["CANCELLED"]}}}
    return len(ids), len(api.all("flow_runs/filter", flow_runs=cancelled)) if ids else 0
