"""A Prefect worker that waits for its server, and whose runs end in order when it is ended.

    PREFECT_API_URL=http://server:4200/api python -P -m flows.site.worker --pool gpu --limit 1

The arguments are those of `prefect worker start`. After TERM or INT it takes no further run, and its runs get TERM:
training saves a checkpoint, and Prefect records the runs as crashed, so that `stale_runs.py` starts them again, here or
elsewhere. Prefect's own worker would wait for its runs, or end without them.
"""

import contextlib
import signal
import subprocess  # noqa: TID251 - not a child of a stage
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import psutil

from flows.site import prefect_environment
from flows.site.prefect_settings import load_settings
from flows.site.server_check import check_server, is_healthy, without_login
from nanochat import settings
from nanochat.errors import NanochatError

WAIT_FOR_SERVER_S = 600.0
RUNS_END_WITHIN_S = 50.0
"""Longer than training needs to save a checkpoint (20 s); less than the 60 s that a stop of a container gives."""
POLL_S = 0.2


def run_worker(command: Sequence[str]) -> int:
    """Runs a worker until it ends, or until a signal and the end of its runs; returns the exit code."""
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    # its own session: a signal to our process group (`tini -g`, Ctrl-C) must not end the worker before its runs
    worker = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own command
    while worker.poll() is None and not ending.wait(POLL_S):
        pass
    if worker.poll() is None:
        _end_with_runs(psutil.Process(worker.pid))
        worker.wait()
        return 0
    return worker.returncode


def _end_with_runs(worker: psutil.Process) -> None:
    """Stops a worker, sends TERM to its runs, and kills the worker when all their processes have ended."""
    worker.suspend()  # it takes no further run, and the pipes that its runs write to stay open
    runs = worker.children()
    started = worker.children(recursive=True)
    _log(f"Ending the runs of this worker: {len(runs)}. Training saves a checkpoint.")
    for run in runs:
        _send(run, signal.SIGTERM)
    deadline = time.monotonic() + RUNS_END_WITHIN_S
    while any(_is_alive(process) for process in started) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for process in (*filter(_is_alive, started), worker):
        _send(process, signal.SIGKILL)


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; the suspended worker leaves those that have ended as zombies."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_server(api_url: str) -> None:
    """Waits until a server answers. Raises `ServerUnavailable` after ten minutes, or if it refuses us."""
    deadline = time.monotonic() + WAIT_FOR_SERVER_S
    if not is_healthy(api_url):
        _log(f"Waiting up to {WAIT_FOR_SERVER_S / 60:.0f} min for the Prefect server at {without_login(api_url)}.")
    while not is_healthy(api_url) and time.monotonic() < deadline:
        time.sleep(1.0)
    check_server(api_url)


def _log(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Prints one sentence if there is no server."""
    settings.settle()
    try:
        load_settings()
        wait_for_server(prefect_environment.api_url())
    except NanochatError as error:
        sys.exit(f"error: {error}")
    prefect = [sys.executable, "-m", "prefect", "worker", "start", "--install-policy", "never"]
    sys.exit(run_worker([*prefect, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
