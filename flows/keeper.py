"""What `nanochat up` leaves running: it keeps a Prefect server and a worker for each work pool alive.

    python -m flows.keeper HOME POOL…

A server or worker that dies is started again, the server at its old address. When the keeper ends, however it ends, all
of it ends: the server leaves with its last user, and workers, with the runs they have started, are under a supervisor
that holds a pipe to the keeper. `keeper.json` says who it is, and is locked as long as it lives.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess  # noqa: TID251 - workers are no stage's children
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.overdue import watch
from flows.server import ServerUnavailable, alive, begin, lock, revive
from nanochat import settings
from nanochat.errors import NanochatError

LOOK_EVERY_S = 0.5
RUNS_AT_ONCE = {"cpu": 4, "gpu": 1}
"""Of a pool's worker: one that trains has all it needs for one stage, and two nodes of a training must not be one."""
PATIENCE_S = 30.0
"""A supervisor needs up to 20 s to end what does not want to end."""
RESTARTS_WAIT_S = 5.0


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
                sys.executable, "-m", "nanochat.stages.supervise", str(self.folder / f"worker-{self.pool}.log"),
                sys.executable, "-m", "prefect", "worker", "start", "--pool", self.pool, "--type", "process",
                "--name", name, "--limit", str(RUNS_AT_ONCE[self.pool]), "--install-policy", "never",
            ],
            stdin=subprocess.PIPE,
            env=settings.worker_environment(),
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
    """`pid`, `api_url`, `pools` and `named` (is the server another's?) of the keeper on this home, if there is one."""
    path = folder / "keeper.json"
    if not path.exists():
        return None
    with path.open() as file:
        if lock(file, shared=True):
            return None
        return json.loads(file.read() or "null")


def keep(home: Path, pools: list[str]) -> None:
    """Returns when told to end (SIGTERM, SIGINT). Raises `ServerUnavailable`, or `NanochatError` if another keeps."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    named = bool(settings.prefect_api_url())
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    with (folder / "keeper.json").open("a+") as file:
        if not lock(file):
            raise NanochatError("Another keeper is at work on this home.", hint="`nanochat down` ends it.")
        with begin(home, services=True) as starting:
            starting.wait(_say)
            settings.use_prefect(starting.api_url, folder)
            workers = [Worker(pool, folder) for pool in pools]
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "api_url": starting.api_url, "pools": pools, "named": named}))
            file.flush()
            try:
                if not named:
                    threading.Thread(target=watch, args=[starting.api_url, ending, _say], daemon=True).start()
                while not ending.wait(LOOK_EVERY_S):
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
    try:
        keep(Path(sys.argv[1]), sys.argv[2:])
    except NanochatError as error:
        _say(str(error))
        sys.exit(1)
