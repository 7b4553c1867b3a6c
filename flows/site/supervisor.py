"""The site supervisor, which `nanochat up` starts: it keeps a Prefect server and a worker for each work pool running.

    python -m flows.site.supervisor HOME POOL… [--serve MODEL]

With `--serve` it also keeps a server of that model running. It restarts a process that dies, servers at their old
address. When it ends in any way, all of the site ends: Prefect's server stops after its last user; workers with their
runs, and the model server, end by `supervised_process.py`. `site.json` contains its pid, and is locked while it runs.
"""

import os
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import IO, Any

from flows.site import prefect_environment, state_files
from flows.site.model_server import model_server
from flows.site.ports import ANY, free_port
from flows.site.prefect_settings import load_settings
from flows.site.server import is_running, restart_server, start_server
from flows.site.server_check import ServerUnavailable, without_login
from flows.site.stale_runs import watch_runs
from flows.site.supervised_process import RESTART_DELAY_S, worker
from nanochat import settings
from nanochat.errors import NanochatError, Terminated

CHECK_INTERVAL_S = 0.5
MODEL_PORT = 8000
"""Of the model server, unless it is taken."""
SERVE_OPTION = "--serve"
STATE_FILES = ("site.json", "keeper.json")  # plain-words: ok
"""The second one belongs to a site that an earlier version started; it is read for one release."""
STATE_FIELDS = {"pid": int, "api_url": str, "pools": list, "named": bool}


def has_supervisor(folder: Path) -> bool:
    """Whether a site supervisor runs on this home."""
    return any(state_files.is_locked(folder / name) for name in STATE_FILES)


def read_state(folder: Path) -> dict[str, Any] | None:
    """State of the supervisor on this home, if one runs: `pid`, `api_url`, `pools`, `named`, `model`, `model_url`.

    `named` means that `PREFECT_API_URL` names the server. The address is empty while our own server starts. The last
    two are empty, or missing in an earlier version, without a model server. Raises `NanochatError` when the file cannot
    be read.
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


def supervise(home: Path, pools: list[str], model: str = "") -> None:
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
        port, claim = free_port([*_port_before(file), MODEL_PORT, ANY]) if model else (0, nullcontext())
        state = {
            "pid": os.getpid(), "api_url": "", "pools": pools, "named": named, "model": model,
            "model_url": f"http://127.0.0.1:{port}" if model else "",
        }  # fmt: skip
        state_files.write(file, state)  # at once, over the content of an earlier supervisor
        with claim, start_server(home, services=True) as starting:
            prefect_environment.configure_client(starting.api_url, folder)
            load_settings()
            starting.wait(_log)
            processes = [worker(pool, folder) for pool in pools]
            if model:
                processes.append(model_server(model, port, folder))
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
                    for process in processes:
                        process.ensure_running()
            finally:
                for process in processes:
                    process.stop()
                for process in processes:
                    process.wait()


def _port_before(file: IO[str]) -> list[int]:
    """The port of the last model server, if there was one."""
    url = str(state_files.read(file, {"model_url": str}).get("model_url", ""))
    return [int(port)] if (port := url.rpartition(":")[2]).isdecimal() else []


def _restart_server(folder: Path) -> None:
    try:
        restart_server(folder)
    except ServerUnavailable as error:
        _log(str(error))
        time.sleep(RESTART_DELAY_S)


def _arguments(given: list[str]) -> tuple[list[str], str]:
    """Pools, and the model to serve or an empty string."""
    return (given[:-2], given[-1]) if given[-2:-1] == [SERVE_OPTION] else (given, "")


def _log(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    settings.settle()
    try:
        supervise(Path(sys.argv[1]), *_arguments(sys.argv[2:]))
    except NanochatError as error:
        _log(str(error))
        sys.exit(1)
