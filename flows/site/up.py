"""`nanochat up` and `nanochat down`: a Prefect server, workers and all deployments on this machine.

`up` starts the keeper (`supervisor.py`), waits until server and workers are healthy, and registers what `prefect.yaml`
says (`deploy.py`). It can be called again: what runs goes on, deployments and automations are renewed.
"""

from __future__ import annotations

import os
import shlex
import subprocess  # noqa: TID251 - the keeper is no stage's child
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from flows.site import prefect_environment
from flows.site.client import Api, load
from flows.site.server import START_LIMIT_S, STOP_LIMIT_S
from flows.site.server_check import ServerUnavailable, expect, healthy, without_login
from flows.site.supervisor import PATIENCE_S, record
from nanochat import settings
from nanochat.errors import NanochatError

PROJECT = Path(__file__).parents[2]
POLL_S = 0.2
CANCEL_LIMIT_S = 25.0

Say = Callable[[str], None]


def up(say: Say, *, gpu: bool) -> None:
    """Returns when runs can be started. `gpu`: this machine does the work of the pool `gpu` too.

    Raises `NanochatError` when the server, a worker or a deployment cannot be had.
    """
    if not (PROJECT / "prefect.yaml").exists():
        raise NanochatError(
            "There is no `prefect.yaml` beside the flows: this is an installed package, not a checkout.",
            hint="`nanochat up` works from a clone of the project.",
        )
    home = settings.home()
    folder = home / "prefect"
    known = record(folder)
    pools = ["cpu", *(["gpu"] if gpu else [])]
    if known is None:
        known = _start_keeper(home, pools, say)
        try:
            _register(known, folder, say)
        except BaseException:  # an error or Ctrl-C: nothing half started is left behind
            _end_keeper(folder, known["pid"])
            raise
    else:
        known = _started(lambda: record(folder) is not None, known["pid"], folder, say) or _never_started(folder)
        say("Up already; deployments and automations are renewed.")
        _register(known, folder, say)


def _register(known: dict[str, Any], folder: Path, say: Say) -> None:
    api_url, pools = (prefect_environment.api_url() if known["named"] else "") or known["api_url"], known["pools"]
    prefect_environment.configure_client(api_url, folder)
    load()
    expect(api_url, own=not known["named"])
    from flows.site.deploy import register  # noqa: PLC0415 - Prefect reads its settings on import

    made = register()
    _wait_for_workers(Api(api_url), pools, folder)
    say(f"prefect     {without_login(api_url).removesuffix('/api')}")
    say(f"workers     {', '.join(pools)}" + ("" if "gpu" in pools else "   (no GPU here: runs in the pool `gpu` wait)"))
    say(f"deployments {', '.join(made.deployments)}")
    if not made.notified:
        say("webhook     none; `NANOCHAT_WEBHOOK=https://…` before `nanochat up` tells you of failed and stuck runs")
    say("\nRun one from its page, or: nanochat run. `nanochat down` ends all of it.")


def down(say: Say) -> None:
    """Cancels what runs in the workers, and ends workers and server. Raises `NanochatError` if they do not end."""
    folder = settings.home() / "prefect"
    known = record(folder)
    if known is None:
        say(f"Nothing is up in {settings.home()}.")
        for other in elsewhere():
            say(f"Up in {other}: `NANOCHAT_HOME={shlex.quote(str(other))} nanochat down` ends that.")
        return
    told = 0, 0
    if known["api_url"] and not known["named"]:  # there, another machine may take the runs over
        try:
            prefect_environment.configure_client(known["api_url"], folder)
            told = _cancel_runs(Api(known["api_url"]))
        except (NanochatError, OSError) as error:  # the workers end all the same
            say(f"Its runs were not cancelled, they end with their workers: {error}")
    _end_keeper(folder, known["pid"])
    say(" ".join(["Down.", *_count(*told)]))


def _count(asked: int, cancelled: int) -> list[str]:
    runs = f"{cancelled} run{'s' if cancelled != 1 else ''}"
    said = [f"{runs} cancelled; what was finished is kept."] if cancelled else []
    if left := asked - cancelled:
        said.append(f"{left} did not end in time, and ended with {'their workers' if left > 1 else 'its worker'}.")
    return said


def _end_keeper(folder: Path, pid: int) -> None:
    """Returns when nothing of it is left; `pid` is of the process that holds the lock, so of no other."""
    try:
        keeper = psutil.Process(pid)
        keeper.terminate()
        keeper.wait(PATIENCE_S + 2 * STOP_LIMIT_S)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired as error:
        raise NanochatError(
            "The keeper does not end.", hint=f"`{folder / 'keeper.log'}` may say why; its process is {pid}."
        ) from error


def elsewhere() -> list[Path]:
    """Homes on which a keeper of this user is at work."""
    homes: set[Path] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError, IndexError):
            command = process.cmdline()
            if process.uids().real == os.getuid() and "flows.site.supervisor" in command:
                homes.add(Path(command[command.index("flows.site.supervisor") + 1]))
    return sorted(homes)


def has_gpu() -> bool:
    """Whether an NVIDIA device is here (no import of torch for that)."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _start_keeper(home: Path, pools: list[str], say: Say) -> dict[str, Any]:
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "keeper.log"
    with log.open("wb") as file:
        keeper = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "flows.site.supervisor", str(home), *pools],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=folder,
            env=settings.for_children(),
        )  # fmt: skip
    try:
        return _started(lambda: keeper.poll() is None, keeper.pid, folder, say) or _never_started(folder)
    except BaseException:
        _end_keeper(folder, keeper.pid)
        raise


def _never_started(folder: Path) -> NoReturn:
    log = folder / "keeper.log"
    last = (log.read_text(errors="replace").strip().splitlines() or ["It said nothing."])[-1]
    raise ServerUnavailable(f"Prefect did not start: {last}", hint=f"`{log}` and `{folder / 'server.log'}` say more.")


def _started(lives: Callable[[], bool], pid: int, folder: Path, say: Say) -> dict[str, Any] | None:
    """What the keeper has written when its server answers; nothing when it has ended, or takes too long."""
    began = said = time.monotonic()
    while lives() and time.monotonic() - began < START_LIMIT_S:
        known = record(folder)
        if known is not None and known["pid"] == pid and healthy(known["api_url"]):
            return known
        if time.monotonic() - said > 3:
            said = time.monotonic()
            say(f"The Prefect server is starting ({said - began:.0f} s; its first start takes longest).")
        time.sleep(POLL_S)
    return None


def _wait_for_workers(api: Api, pools: list[str], folder: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    for pool in pools:
        while not any(worker["status"] == "ONLINE" for worker in api.post(f"work_pools/{pool}/workers/filter")):
            if time.monotonic() > deadline:
                raise ServerUnavailable(
                    f"The worker for the pool `{pool}` did not start.", hint=f"`{folder / f'worker-{pool}.log'}`."
                )
            time.sleep(POLL_S)


def _cancel_runs(api: Api) -> tuple[int, int]:
    """How many runs were told to end, and how many of them are *Cancelled*."""
    busy = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}, "deployment_id": {"is_null_": False}}
    ids = [run["id"] for run in api.all("flow_runs/filter", flow_runs=busy)]
    state = {"type": "CANCELLING", "name": "Cancelling", "message": "`nanochat down`"}
    for run_id in ids:
        api.post(f"flow_runs/{run_id}/set_state", state=state)
    told = {"id": {"any_": ids}}
    deadline = time.monotonic() + CANCEL_LIMIT_S
    while ids and time.monotonic() < deadline and api.post("flow_runs/filter", flow_runs={**busy, **told}):
        time.sleep(POLL_S)
    cancelled = {**told, "state": {"type": {"any_": ["CANCELLED"]}}}
    return len(ids), len(api.all("flow_runs/filter", flow_runs=cancelled)) if ids else 0
