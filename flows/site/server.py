"""The Prefect server of a run: one that `PREFECT_API_URL` names, one that runs on this home, or one that it starts.

    with start_server(home()) as starting:
        starting.wait(print)

The files of our own server are in `<home>/prefect` (SQLite, loopback only). Every process that uses it holds a shared
lock on `in-use`; the last one stops it. The server also waits for that lock, so it ends when its users were killed,
because the kernel drops their locks. `server.json` contains its port, and is locked as long as it runs.

Does not import Prefect: that import (1.2 s) and the start of a server (3 s, on a new home 10 s) can overlap.
"""

import fcntl  # and not filelock: several processes share a lock
import os
import runpy
import signal
import subprocess  # noqa: TID251 - a server is not the child of a stage
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.site import prefect_environment, state_files
from flows.site.ports import ANY, free_port
from flows.site.server_check import ServerUnavailable, check_server, is_healthy
from flows.site.state_files import open_state, try_lock
from nanochat.settings import settle

PREFERRED_PORT = 4200
START_TIMEOUT_S = 300.0
"""Of a server or worker whose process lives; 5 to 20 s are usual, but a busy machine gives it little time."""
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1

STATE_FIELDS = {"pid": int, "port": int, "services": bool}
"""Fields of `server.json`."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class StartingServer:
    """A server that may not answer yet."""

    api_url: str
    wait: Callable[[Log], None]
    """Returns when the server is healthy; logs a line every 2 s; raises `ServerUnavailable`."""


@contextmanager
def start_server(home: Path, *, services: bool = False) -> Iterator[StartingServer]:
    """Yields the server's address at once, so that the caller can work while it starts. It runs as long as the block.

    With `services` the server also schedules runs and triggers automations; raises `ServerUnavailable` if a run has
    started one without services.
    """
    if named := prefect_environment.api_url():
        yield StartingServer(named, lambda _: check_server(named))
        return
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with open_state(folder / "in-use") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_SH)  # waits for a server that is stopping
        api_url = prefect_environment.own_api_url(_find_or_start(folder, services))
        try:
            yield StartingServer(api_url, lambda log: _wait(folder, api_url, log))
        finally:
            if try_lock(in_use):  # no other process uses it
                _stop(folder)


def restart_server(folder: Path) -> None:
    """Starts a server with services again, at its old address, which running processes use.

    Raises `ServerUnavailable` when another program uses that port now.
    """
    _find_or_start(folder, services=True, other_ports=False)


def _find_or_start(folder: Path, services: bool, *, other_ports: bool = True) -> int:
    """Port of the server on this home. Two processes that call this at once start one server."""
    with open_state(folder / "starting") as starting, open_state(folder / "server.json") as state:
        fcntl.flock(starting, fcntl.LOCK_EX)
        known = state_files.read(state, STATE_FIELDS)
        if not try_lock(state):
            if not known:
                raise ServerUnavailable(
                    f"A Prefect server runs on this home, but `{folder / 'server.json'}` does not contain its port.",
                    hint=f"End the process `flows.site.server {folder}`, and try again.",
                )
            if services and not known["services"]:
                raise ServerUnavailable(
                    "A run has started a Prefect server that ends with the run and schedules nothing.",
                    hint="Call `nanochat up` again when that run has ended.",
                )
            return known["port"]
        port, claim = free_port([*([known["port"]] if known else []), *((PREFERRED_PORT, ANY) if other_ports else ())])
        # Written before the process starts that will hold the lock, so the lock never covers an older server's content.
        state_files.write(state, {"pid": 0, "port": port, "services": services})
        with claim, (folder / "server.log").open("ab") as log_file:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-m", "flows.site.server", str(folder), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env=prefect_environment.for_server(folder, port, services=services),
                cwd=folder,  # no unrelated `prefect.toml` or `.env`
                pass_fds=[state.fileno(), claim.fileno()],  # and with them the locks
                start_new_session=True,  # Ctrl-C is for the run
            )
        threading.Thread(target=process.wait, daemon=True).start()  # reaps the process: a zombie would look alive
        state_files.write(state, {"pid": process.pid, "port": port, "services": services})
        return port


def is_running(folder: Path) -> bool:
    """Whether the process of the server on this home is alive."""
    return state_files.is_locked(folder / "server.json")


def _wait(folder: Path, api_url: str, log: Log) -> None:
    began = logged = time.monotonic()
    while (waited := time.monotonic() - began) < START_TIMEOUT_S and is_running(folder):
        if is_healthy(api_url):
            return check_server(api_url, own=True)
        if time.monotonic() - logged > 2:
            logged = time.monotonic()
            log(f"The Prefect server is starting ({waited:.0f} s; its first start takes longest).")
        time.sleep(POLL_S)
    problem = "it does not answer" if is_running(folder) else "its process has ended"
    raise ServerUnavailable(
        f"The Prefect server did not start: after {waited:.0f} s {problem}.",
        hint=f"See `{folder / 'server.log'}`; `--plain` runs without a server.",
    )


def _stop(folder: Path) -> None:
    with open_state(folder / "server.json") as state:
        pid = state_files.read(state, STATE_FIELDS).get("pid", 0)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not pid or not is_running(folder):  # without a pid: it ends by itself, after its last user
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while is_running(folder) and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)


def _stop_after_last_user(folder: Path) -> None:
    with (folder / "in-use").open("a") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_EX)  # succeeds when no process uses the server any more
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_TIMEOUT_S)
        os._exit(0)


def _serve(folder: Path, port: int) -> None:
    threading.Thread(target=_stop_after_last_user, args=[folder], daemon=True).start()
    sys.argv = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    runpy.run_module("prefect", run_name="__main__")


if __name__ == "__main__":
    settle()
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
