"""The Prefect server a run works with: the one you name, the one that runs here already, or one started for the run.

    with server(home()) as api_url: ...

Our own server lives in `<home>/prefect` (SQLite, loopback only). Whoever uses it holds a shared lock on `in-use`; the
last one to leave stops it, and the server watches the lock itself, so that users who were killed leave no server
behind: the kernel drops the locks of the dead. `server.json` says where it is, and is locked as long as it lives.

Nothing here imports Prefect: its import (1.2 s) and the server's start (3 s, on a new home 10 s) can overlap.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import signal
import socket
import subprocess  # noqa: TID251 - the server is no stage's child
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.site import prefect_environment, state_files
from flows.site.server_check import ServerUnavailable, expect, healthy
from flows.site.state_files import lock, open_state
from nanochat.settings import settle

PREFERRED_PORT = 4200
START_LIMIT_S = 90.0
STOP_LIMIT_S = 10.0
POLL_S = 0.1

RECORD = {"pid": int, "port": int, "services": bool}
"""Fields of `server.json`."""

Say = Callable[[str], None]


@contextmanager
def server(home: Path, say: Say) -> Iterator[str]:
    """The API address of a healthy Prefect server, for as long as the block lasts.

    `say` hears a line now and then while it starts. Raises `ServerUnavailable`.
    """
    with begin(home) as starting:
        starting.wait(say)
        yield starting.api_url


@dataclass(frozen=True)
class Starting:
    """A server that may not answer yet."""

    api_url: str
    wait: Callable[[Say], None]
    """Returns when it does; raises `ServerUnavailable`."""


@contextmanager
def begin(home: Path, *, services: bool = False) -> Iterator[Starting]:
    """Like `server` in two steps: its address is known at once, and something else can be done while it starts.

    With `services` it also schedules runs and follows automations; raises `ServerUnavailable` if a run has started one
    that does not.
    """
    if named := prefect_environment.api_url():
        yield Starting(named, lambda _: expect(named))
        return
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with open_state(folder / "in-use") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_SH)  # waits for a server that is on its way out
        api_url = prefect_environment.own_api_url(_find_or_start(folder, services))
        try:
            yield Starting(api_url, lambda say: _wait(folder, api_url, say))
        finally:
            if lock(in_use):  # nobody else uses it
                _stop(folder)


def revive(folder: Path) -> None:
    """Starts a server with services again, at the address it had, for those who use it.

    Raises `ServerUnavailable` when another program has the port now.
    """
    _find_or_start(folder, services=True, elsewhere=False)


def _find_or_start(folder: Path, services: bool, *, elsewhere: bool = True) -> int:
    """Port of the server on this home; two that begin together start one. `elsewhere`: any port will do."""
    with open_state(folder / "starting") as starting, open_state(folder / "server.json") as record:
        fcntl.flock(starting, fcntl.LOCK_EX)
        known = state_files.read(record, RECORD)
        if not lock(record):
            if not known:
                raise ServerUnavailable(
                    f"A Prefect server runs on this home, and `{folder / 'server.json'}` does not say where.",
                    hint=f"End the process `flows.site.server {folder}`, and try again.",
                )
            if services and not known["services"]:
                raise ServerUnavailable(
                    "A run has started a Prefect server of its own, which ends with it and schedules nothing.",
                    hint="`nanochat up` again when that run has ended.",
                )
            return known["port"]
        port, claim = _free_port([known["port"]] if known else [], any_other=elsewhere)
        # Before there is a process that could hold the lock: it never holds one on what a server before it wrote.
        state_files.write(record, {"pid": 0, "port": port, "services": services})
        with claim, (folder / "server.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-m", "flows.site.server", str(folder), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=prefect_environment.for_server(folder, port, services=services),
                cwd=folder,  # no stranger's `prefect.toml` or `.env`
                pass_fds=[record.fileno(), claim.fileno()],  # and with them the locks
                start_new_session=True,  # Ctrl-C is meant for the run
            )
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie that looks alive
        state_files.write(record, {"pid": process.pid, "port": port, "services": services})
        return port


def _free_port(wanted: list[int], *, any_other: bool) -> tuple[int, IO[str]]:
    """A port, and our claim to it: another home's server, which starts beside ours, finds the port free as well."""
    for port in (*wanted, *((PREFERRED_PORT, 0) if any_other else ())):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                number: int = probe.getsockname()[1]
                claim = (Path(tempfile.gettempdir()) / f"nanochat-port-{number}").open("a")
            except (OSError, OverflowError):  # taken; or claimed by another user; or no port
                continue
        if lock(claim):
            return number, claim
        claim.close()
    which = "No port" if any_other else f"The port {wanted[0]}"
    raise ServerUnavailable(
        f"{which} of 127.0.0.1 is {'' if any_other else 'not '}free for a Prefect server.", hint="`--plain` needs none."
    )


def alive(folder: Path) -> bool:
    """Whether the server on this home lives."""
    return state_files.held(folder / "server.json")


def _wait(folder: Path, api_url: str, say: Say) -> None:
    began = said = time.monotonic()
    while (waited := time.monotonic() - began) < START_LIMIT_S and alive(folder):
        if healthy(api_url):
            return expect(api_url, own=True)
        if time.monotonic() - said > 2:
            said = time.monotonic()
            say(f"The Prefect server is starting ({waited:.0f} s; its first start takes longest).")
        time.sleep(POLL_S)
    raise ServerUnavailable(
        f"The Prefect server did not start: after {waited:.0f} s it {'is silent' if alive(folder) else 'has ended'}.",
        hint=f"`{folder / 'server.log'}` says why; `--plain` runs without it.",
    )


def _stop(folder: Path) -> None:
    with open_state(folder / "server.json") as record:
        pid = state_files.read(record, RECORD).get("pid", 0)
    for end in (signal.SIGTERM, signal.SIGKILL):
        if not pid or not alive(folder):  # without a number: it leaves by itself, with its last user
            return
        with suppress(ProcessLookupError):
            os.kill(pid, end)
        deadline = time.monotonic() + STOP_LIMIT_S
        while alive(folder) and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)


def _leave_with_the_last_user(folder: Path) -> None:
    with (folder / "in-use").open("a") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_EX)  # comes when nobody uses the server any more
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_LIMIT_S)
        os._exit(0)


def _serve(folder: Path, port: int) -> None:
    threading.Thread(target=_leave_with_the_last_user, args=[folder], daemon=True).start()
    sys.argv = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    runpy.run_module("prefect", run_name="__main__")


if __name__ == "__main__":
    settle()
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
