"""Processes that the site supervisor keeps running: Prefect workers, and a server of models (`model_server.py`).

Each is the child of a process supervisor (`nanochat/workers/supervisor.py`), which ends it with all its descendants
when the pipe from our process closes.
"""

import socket
import subprocess  # noqa: TID251 - not children of a stage
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.site import prefect_environment

CONCURRENT_RUNS = {"cpu": 4, "gpu": 1}
"""Runs per worker. A training stage uses the whole machine, and two nodes of one training must be two machines."""
STOP_TIMEOUT_S = 30.0
"""A process supervisor needs up to 20 s to end processes that ignore SIGTERM."""
RESTART_DELAY_S = 5.0


@dataclass
class SupervisedProcess:
    """A Python module with arguments, restarted when it ends."""

    arguments: list[str]
    """What follows `python -m`."""
    log: Path
    environment: Callable[[], dict[str, str]]
    process: subprocess.Popen[bytes] | None = None
    started: float = field(default=-RESTART_DELAY_S)

    def ensure_running(self) -> None:
        """Starts the process if it does not run, but not more often than every few seconds."""
        if self.process is not None and self.process.poll() is None:
            return
        if time.monotonic() - self.started < RESTART_DELAY_S:
            return
        self.started = time.monotonic()
        self.stop()  # closes the pipe to the one that has ended
        command = [sys.executable, "-m", *self.arguments]
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "nanochat.workers.supervisor", str(self.log), *command],
            stdin=subprocess.PIPE,
            env=self.environment(),
            cwd=self.log.parent,  # no unrelated `prefect.toml` or `.env`
            start_new_session=True,
        )

    def stop(self) -> None:
        """Makes the process supervisor end the process and all its descendants."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def wait(self) -> None:
        """Waits for the end after `stop`."""
        if self.process is None:
            return
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def worker(pool: str, folder: Path) -> SupervisedProcess:
    """A Prefect worker of a work pool."""
    name, limit = f"{socket.gethostname()} {pool}", str(CONCURRENT_RUNS[pool])
    arguments = ["worker", "start", "--pool", pool, "--type", "process", "--name", name, "--limit", limit]
    return SupervisedProcess(
        ["prefect", *arguments, "--install-policy", "never"],
        folder / f"worker-{pool}.log",
        prefect_environment.for_worker,
    )
