"""The Prefect server a run works with: the one you name, the one that runs here already, or one started for the run.

    with server(home()) as api_url: ...

Our own server lives in `<home>/prefect` (SQLite, loopback only). Whoever uses it holds a shared lock on `in-use`; the
last one to leave stops it, and the server watches the lock itself, so that users who were killed leave no server
behind: the kernel drops the locks of the dead. `server.json` says where it is, and is locked as long as it lives.

Nothing here imports Prefect: its import (1.2 s) and the server's start (3 s, on a new home 10 s) can overlap.
"""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import signal
import socket
import subprocess  # noqa: TID251 - the server is no stage's child
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nanochat.errors import NanochatError
from nanochat.settings import prefect_api_url, server_environment

PREFERRED_PORT = 4200
START_LIMIT_S = 90.0
STOP_LIMIT_S = 10.0
POLL_S = 0.1

Say = Callable[[str], None]


class ServerUnavailable(NanochatError):
    """The Prefect server did not start, or does not answer."""


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
def begin(home: Path) -> Iterator[Starting]:
    """Like `server` in two steps: its address is known at once, and something else can be done while it starts."""
    if named := prefect_api_url():
        yield Starting(named, lambda _: _expect(named))
        return
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "in-use").open("a") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_SH)  # waits for a server that is on its way out
        pid, port = _find_or_start(folder)
        api_url = f"http://127.0.0.1:{port}/api"
        try:
            yield Starting(api_url, lambda say: _wait(folder, api_url, say))
        finally:
            if _lock(in_use, fcntl.LOCK_EX):  # nobody else uses it
                _stop(folder, pid)


def healthy(api_url: str, timeout_s: float = 2.0) -> bool:
    """Whether a Prefect server answers at this address."""
    if not api_url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout_s) as answer:  # noqa: S310 - http
            return answer.status == 200
    except (OSError, ValueError):  # not reached, refused; not an address
        return False


def _expect(api_url: str) -> None:
    if not healthy(api_url, timeout_s=10.0):
        raise ServerUnavailable(
            f"The Prefect server at {api_url} (`PREFECT_API_URL`) does not answer.",
            hint="Start it or mend the address; after `unset PREFECT_API_URL` a run starts its own.",
        )


def _find_or_start(folder: Path) -> tuple[int, int]:
    """Process id and port of the server on this home; two that begin together start one."""
    with (folder / "starting").open("a") as starting, (folder / "server.json").open("a+") as record:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not _lock(record, fcntl.LOCK_EX):
            record.seek(0)
            known = json.load(record)
            return known["pid"], known["port"]
        port = _free_port()
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-m", "flows.server", str(folder), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=server_environment(folder, port),
                pass_fds=[record.fileno()],  # and with it the lock
                start_new_session=True,  # Ctrl-C is meant for the run
            )
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie that looks alive
        record.truncate(0)
        json.dump({"pid": process.pid, "port": port}, record)
        return process.pid, port


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_port() -> int:
    for wanted in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ServerUnavailable("No port of 127.0.0.1 is free for a Prefect server.", hint="`--plain` needs none.")


def _alive(folder: Path) -> bool:
    with (folder / "server.json").open() as record:
        return not _lock(record, fcntl.LOCK_SH)


def _wait(folder: Path, api_url: str, say: Say) -> None:
    began = said = time.monotonic()
    while (waited := time.monotonic() - began) < START_LIMIT_S and _alive(folder):
        if healthy(api_url):
            return
        if time.monotonic() - said > 2:
            said = time.monotonic()
            say(f"The Prefect server is starting ({waited:.0f} s; its first start takes longest).")
        time.sleep(POLL_S)
    raise ServerUnavailable(
        f"The Prefect server did not start: after {waited:.0f} s it {'is silent' if _alive(folder) else 'has ended'}.",
        hint=f"`{folder / 'server.log'}` says why; `--plain` runs without it.",
    )


def _stop(folder: Path, pid: int) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL):
        if not _alive(folder):
            return
        os.kill(pid, end)
        deadline = time.monotonic() + STOP_LIMIT_S
        while _alive(folder) and time.monotonic() < deadline:
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
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
