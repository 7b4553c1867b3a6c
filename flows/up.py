"""`nanochat up` and `nanochat down`: a Prefect server, workers and all deployments on this machine.

`up` starts the keeper (`keeper.py`), waits until server and workers are healthy, and registers what `prefect.yaml`
says (`register.py`). It can be called again: what runs goes on, deployments and automations are renewed.
"""

from __future__ import annotations

import os
import signal
import subprocess  # noqa: TID251 - the keeper is no stage's child
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.keeper import PATIENCE_S, record
from flows.overdue import ask
from flows.server import START_LIMIT_S, STOP_LIMIT_S, ServerUnavailable, healthy
from nanochat import settings
from nanochat.errors import NanochatError

PROJECT = Path(__file__).parent.parent
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
    else:
        say("Up already; deployments and automations are renewed.")
        pools = known["pools"]
    api_url = known["api_url"]
    settings.use_prefect(api_url, folder)
    from flows.register import register  # noqa: PLC0415 - Prefect reads its settings on import

    made = register()
    _wait_for_workers(api_url, pools, folder)
    say(f"prefect     {api_url.removesuffix('/api')}")
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
        say("Nothing is up.")
        return
    cancelled = 0 if known["named"] else _cancel_runs(known["api_url"])  # there, another machine may take them over
    os.kill(known["pid"], signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S + 2 * STOP_LIMIT_S
    while record(folder) is not None:
        if time.monotonic() > deadline:
            raise NanochatError(
                "The keeper does not end.",
                hint=f"`{folder / 'keeper.log'}` may say why; its process is {known['pid']}.",
            )
        time.sleep(POLL_S)
    runs = f"{cancelled} run{'s' if cancelled != 1 else ''} cancelled; what was finished is kept" if cancelled else ""
    say("Down." + (f" {runs}." if runs else ""))


def has_gpu() -> bool:
    """Whether an NVIDIA device is here (no import of torch for that)."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _start_keeper(home: Path, pools: list[str], say: Say) -> dict[str, Any]:
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "keeper.log"
    with log.open("wb") as file:
        keeper = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "flows.keeper", str(home), *pools],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=PROJECT,
        )  # fmt: skip
    began = said = time.monotonic()
    while keeper.poll() is None and time.monotonic() - began < START_LIMIT_S:
        known = record(folder)
        if known is not None and known["pid"] == keeper.pid and healthy(known["api_url"]):
            return known
        if time.monotonic() - said > 3:
            said = time.monotonic()
            say(f"The Prefect server is starting ({said - began:.0f} s; its first start takes longest).")
        time.sleep(POLL_S)
    last = (log.read_text(errors="replace").strip().splitlines() or ["It said nothing."])[-1]
    raise ServerUnavailable(f"Prefect did not start: {last}", hint=f"`{log}` and `{folder / 'server.log'}` say more.")


def _wait_for_workers(api_url: str, pools: list[str], folder: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    for pool in pools:
        while not any(worker["status"] == "ONLINE" for worker in ask(api_url, f"work_pools/{pool}/workers/filter")):
            if time.monotonic() > deadline:
                raise ServerUnavailable(
                    f"The worker for the pool `{pool}` did not start.", hint=f"`{folder / f'worker-{pool}.log'}`."
                )
            time.sleep(POLL_S)


def _cancel_runs(api_url: str) -> int:
    """Asks what runs in this machine's workers to end, and waits for it."""
    wanted = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    try:
        runs = [run for run in ask(api_url, "flow_runs/filter", flow_runs=wanted) if run.get("deployment_id")]
        for run in runs:
            state = {"type": "CANCELLING", "name": "Cancelling", "message": "`nanochat down`"}
            ask(api_url, f"flow_runs/{run['id']}/set_state", state=state)
        deadline = time.monotonic() + CANCEL_LIMIT_S
        ids = {"id": {"any_": [run["id"] for run in runs]}, **wanted}
        while runs and time.monotonic() < deadline and ask(api_url, "flow_runs/filter", flow_runs=ids):
            time.sleep(POLL_S)
    except OSError:  # the server is not there: the workers end all the same
        return 0
    return len(runs)
