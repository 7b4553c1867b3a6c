"""The site supervisor, which `nanochat up` starts: it keeps a Prefect server and a worker for each work pool running.

    python -m flows.site.supervisor HOME POOL…

It restarts a server or worker that dies, the server at its old address. When it ends in any way, all of the site ends:
the server stops after its last user, and each worker and its runs are children of a process supervisor
(`nanochat/workers/supervisor.py`) that has a pipe from this process. `site.json` contains its pid, and is locked while
it runs.
"""

import os
import signal
import socket
import subprocess  # noqa: TID251 - workers are not children of a stage
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from flows.site import prefect_environment, state_files
from flows.site.prefect_settings import load_settings
from flows.site.server import is_running, restart_server, start_server
from flows.site.server_check import ServerUnavailable, without_login
from flows.site.stale_runs import watch_runs
from nanochat import settings
from nanochat.errors import NanochatError, Terminated

CHECK_INTERVAL_S = 0.5
CONCURRENT_RUNS = {"cpu": 4, "gpu": 1}
"""Runs per worker. A training stage uses the whole machine, and two nodes of one training must be two machines."""
STOP_TIMEOUT_S = 30.0
"""A process supervisor needs up to 20 s to end processes that ignore SIGTERM."""
RESTART_DELAY_S = 5.0
STATE_FILES = ("site.json", "keeper.json")  # plain-words: ok
"""The second one belongs to a site that an earlier version started; it is read for one release."""
STATE_FIELDS = {"pid": int, "api_url": str, "pools": list, "named": bool}


@dataclass
class Worker:
    """A Prefect worker of a pool, the child of a process supervisor."""

    pool: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = field(default=-RESTART_DELAY_S)

    def ensure_running(self) -> None:
        """Starts the worker if it does not run, but not more often than every few seconds."""
        if self.process is not None and self.process.poll() is None:
            return
        if time.monotonic() - self.started < RESTART_DELAY_S:
            return
        self.started = time.monotonic()
        name = f"{socket.gethostname()} {self.pool}"
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [
                sys.executable, "-m", "nanochat.workers.supervisor", str(self.folder / f"worker-{self.pool}.log"),
                sys.executable, "-m", "prefect", "worker", "start", "--pool", self.pool, "--type", "process",
                "--name", name, "--limit", str(CONCURRENT_RUNS[self.pool]), "--install-policy", "never",
            ],
            stdin=subprocess.PIPE,
            env=prefect_environment.for_worker(),
            cwd=self.folder,  # no unrelated `prefect.toml` or `.env`
            start_new_session=True,
        )  # fmt: skip

    def stop(self) -> None:
        """Makes the process supervisor end the worker and all its descendants."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def wait(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def has_supervisor(folder: Path) -> bool:
    """Whether a site supervisor runs on this home."""
    return any(state_files.is_locked(folder / name) for name in STATE_FILES)


def read_state(folder: Path) -> dict[str, Any] | None:
    """State of the supervisor on this home, if one runs: `pid`, `api_url`, `pools`, `named`.

    `named` means that `PREFECT_API_URL` names the server. The address is empty while our own server starts. Raises
    `NanochatError` when the file cannot be read.
    """
    deadline = time.monotonic() + 6 * CHECK_INTERVAL_S
    for path in (folder / name for name in STATE_FILES):
        while state_files.is_locked(path):
            with state_files.open_state(path) as file:
                if known := state_files.read(file, STATE_FIELDS):
                    return known
            if time.monotonic() > deadline:  # the supervisor rewrites a damaged file
                raise NanochatError(
                    f"A site supervisor runs, but `{path}` does not contain its state.",
                    hint="End the process `flows.site.supervisor`.",
                )
            time.sleep(CHECK_INTERVAL_S / 4)
    return None


def supervise(home: Path, pools: list[str]) -> None:
    """Returns after a signal. Raises `NanochatError` if another supervisor runs on this home, or a server fails."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    named = bool(prefect_environment.api_url())
    ending, started = threading.Event(), threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()
        if not started.is_set():  # a start may take a minute
            raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    with state_files.open_state(folder / STATE_FILES[0]) as file:
        if state_files.is_locked(folder / STATE_FILES[1]) or not state_files.try_lock(file):
            raise NanochatError("Another site supervisor runs on this home.", hint="`nanochat down` ends it.")
        state = {"pid": os.getpid(), "api_url": "", "pools": pools, "named": named}
        state_files.write(file, state)  # at once, over the content of an earlier supervisor
        with start_server(home, services=True) as starting:
            prefect_environment.configure_client(starting.api_url, folder)
            load_settings()
            starting.wait(_log)
            workers = [Worker(pool, folder) for pool in pools]
            state["api_url"] = without_login(starting.api_url)
            started.set()
            try:
                if not named:
                    threading.Thread(target=watch_runs, args=[starting.api_url, ending, _log], daemon=True).start()
                while not ending.is_set():
                    if state_files.read(file, STATE_FIELDS) != state:
                        state_files.write(file, state)
                    ending.wait(CHECK_INTERVAL_S)
                    if not named and not is_running(folder):
                        _log("The server has ended; restarting it.")
                        _restart_server(folder)
                    for worker in workers:
                        worker.ensure_running()
            finally:
                for worker in workers:
                    worker.stop()
                for worker in workers:
                    worker.wait()


def _restart_server(folder: Path) -> None:
    try:
        restart_server(folder)
    except ServerUnavailable as error:
        _log(str(error))
        time.sleep(RESTART_DELAY_S)


def _log(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    settings.settle()
    try:
        supervise(Path(sys.argv[1]), sys.argv[2:])
    except NanochatError as error:
        _log(str(error))
        sys.exit(1)
