"""What `nanochat up` leaves running: it keeps a Prefect server and a worker for each work pool alive.

    python -m flows.site.supervisor HOME POOL…

A server or worker that dies is started again, the server at its old address. When the keeper ends, however it ends, all
of it ends: the server leaves with its last user, and workers, with the runs they have started, are under a supervisor
that holds a pipe to the keeper. `keeper.json` says who it is, and is locked as long as it lives.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess  # noqa: TID251 - workers are no stage's children
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from flows.site import prefect_environment, state_files
from flows.site.client import load
from flows.site.server import alive, begin, revive
from flows.site.server_check import ServerUnavailable, without_login
from flows.site.stale_runs import watch
from nanochat import settings
from nanochat.errors import NanochatError, Terminated

LOOK_EVERY_S = 0.5
RUNS_AT_ONCE = {"cpu": 4, "gpu": 1}
"""Of a pool's worker: one that trains has all it needs for one stage, and two nodes of a training must not be one."""
PATIENCE_S = 30.0
"""A supervisor needs up to 20 s to end what does not want to end."""
RESTARTS_WAIT_S = 5.0
RECORD = {"pid": int, "api_url": str, "pools": list, "named": bool}
"""Fields of `keeper.json`."""


@dataclass
class Worker:
    """A Prefect worker on a pool, under supervision."""

    pool: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = field(default=-RESTARTS_WAIT_S)

    def look(self) -> None:
        """Starts it if it does not run; one that cannot run is not started more often than every few seconds."""
        if self.process is not None and self.process.poll() is None:
            return
        if time.monotonic() - self.started < RESTARTS_WAIT_S:
            return
        self.started = time.monotonic()
        name = f"{socket.gethostname()} {self.pool}"
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [
                sys.executable, "-m", "nanochat.workers.supervisor", str(self.folder / f"worker-{self.pool}.log"),
                sys.executable, "-m", "prefect", "worker", "start", "--pool", self.pool, "--type", "process",
                "--name", name, "--limit", str(RUNS_AT_ONCE[self.pool]), "--install-policy", "never",
            ],
            stdin=subprocess.PIPE,
            env=prefect_environment.for_worker(),
            cwd=self.folder,  # no stranger's `prefect.toml` or `.env`
            start_new_session=True,
        )  # fmt: skip

    def end(self) -> None:
        """Asks the supervisor to end the worker and all below it."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def wait(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def record(folder: Path) -> dict[str, Any] | None:
    """`pid`, `api_url`, `pools` and `named` (is the server another's?) of the keeper on this home, if there is one.

    The address is empty while the server starts. Raises `NanochatError` when the file cannot be read.
    """
    path = folder / "keeper.json"
    deadline = time.monotonic() + 6 * LOOK_EVERY_S
    while state_files.held(path):
        with state_files.open_state(path) as file:
            if known := state_files.read(file, RECORD):
                return known
        if time.monotonic() > deadline:  # it writes again what was damaged
            raise NanochatError(
                f"A keeper is at work, and `{path}` does not say where.",
                hint="End the process `flows.site.supervisor`.",
            )
        time.sleep(LOOK_EVERY_S / 4)
    return None


def keep(home: Path, pools: list[str]) -> None:
    """Returns when a signal tells it to end. Raises `NanochatError` if another keeps, or a server fails."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    named = bool(prefect_environment.api_url())
    ending, at_work = threading.Event(), threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()
        if not at_work.is_set():  # a server that starts may take a minute
            raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    with state_files.open_state(folder / "keeper.json") as file:
        if not state_files.lock(file):
            raise NanochatError("Another keeper is at work on this home.", hint="`nanochat down` ends it.")
        known = {"pid": os.getpid(), "api_url": "", "pools": pools, "named": named}
        state_files.write(file, known)  # at once: no word is left of a keeper before this one
        with begin(home, services=True) as starting:
            prefect_environment.configure_client(starting.api_url, folder)
            load()
            starting.wait(_say)
            workers = [Worker(pool, folder) for pool in pools]
            known["api_url"] = without_login(starting.api_url)
            at_work.set()
            try:
                if not named:
                    threading.Thread(target=watch, args=[starting.api_url, ending, _say], daemon=True).start()
                while not ending.is_set():
                    if state_files.read(file, RECORD) != known:
                        state_files.write(file, known)
                    ending.wait(LOOK_EVERY_S)
                    if not named and not alive(folder):
                        _say("the server has ended; starting it again")
                        _revive(folder)
                    for worker in workers:
                        worker.look()
            finally:
                for worker in workers:
                    worker.end()
                for worker in workers:
                    worker.wait()


def _revive(folder: Path) -> None:
    try:
        revive(folder)
    except ServerUnavailable as error:
        _say(str(error))
        time.sleep(RESTARTS_WAIT_S)


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    settings.settle()
    try:
        keep(Path(sys.argv[1]), sys.argv[2:])
    except NanochatError as error:
        _say(str(error))
        sys.exit(1)
