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
import re
import runpy
import signal
import socket
import subprocess  # noqa: TID251 - the server is no stage's child
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
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
def begin(home: Path, *, services: bool = False) -> Iterator[Starting]:
    """Like `server` in two steps: its address is known at once, and something else can be done while it starts.

    With `services` it also schedules runs and follows automations; raises `ServerUnavailable` if a run has started one
    that does not.
    """
    if named := prefect_api_url():
        yield Starting(named, lambda _: _expect(named))
        return
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "in-use").open("a") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_SH)  # waits for a server that is on its way out
        port = _find_or_start(folder, services)
        api_url = f"http://127.0.0.1:{port}/api"
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
    theirs, ours = _version(api_url), version("prefect")
    if theirs and _release(theirs) < _release(ours):  # newer servers understand older clients; not the other way round
        raise ServerUnavailable(
            f"The Prefect server at {api_url} is version {theirs}, older than the {ours} that is installed here.",
            hint=f"Upgrade the server first, or install its version here: `pip install prefect=={theirs}`.",
        )


def _version(api_url: str) -> str:
    """What the server says; empty when it does not say."""
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/admin/version", timeout=10.0) as answer:  # noqa: S310 - http
            return str(json.load(answer))
    except (OSError, ValueError):  # not said, or something else than a version
        return ""


def _release(name: str) -> tuple[int, ...]:
    """Major and minor: `3.8.8` is of the release 3.8."""
    return tuple(int(part) for part in re.findall(r"\d+", name)[:2])


def _find_or_start(folder: Path, services: bool, *, elsewhere: bool = True) -> int:
    """Port of the server on this home; two that begin together start one. `elsewhere`: any port will do."""
    with (folder / "starting").open("a") as starting, (folder / "server.json").open("a+") as record:
        fcntl.flock(starting, fcntl.LOCK_EX)
        record.seek(0)
        known = json.loads(record.read() or "{}")
        if not lock(record):
            if services and not known["services"]:
                raise ServerUnavailable(
                    "A run has started a Prefect server of its own, which ends with it and schedules nothing.",
                    hint="`nanochat up` again when that run has ended.",
                )
            return known["port"]
        port, claim = _free_port([known["port"]] if "port" in known else [], any_other=elsewhere)
        with claim, (folder / "server.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-m", "flows.server", str(folder), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=server_environment(folder, port, services=services),
                pass_fds=[record.fileno(), claim.fileno()],  # and with them the locks
                start_new_session=True,  # Ctrl-C is meant for the run
            )
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie that looks alive
        record.truncate(0)
        json.dump({"pid": process.pid, "port": port, "services": services}, record)
        return port


def lock(file: IO[str], *, shared: bool = False) -> bool:
    """Whether the file's lock could be had at once; it is held until the file is closed."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_port(wanted: list[int], *, any_other: bool) -> tuple[int, IO[str]]:
    """A port, and our claim to it: another home's server, which starts beside ours, finds the port free as well."""
    for port in (*wanted, *((PREFERRED_PORT, 0) if any_other else ())):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                number: int = probe.getsockname()[1]
                claim = (Path(tempfile.gettempdir()) / f"nanochat-port-{number}").open("a")
            except OSError:  # taken; or claimed by another user
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
    with (folder / "server.json").open() as record:
        return not lock(record, shared=True)


def _wait(folder: Path, api_url: str, say: Say) -> None:
    began = said = time.monotonic()
    while (waited := time.monotonic() - began) < START_LIMIT_S and alive(folder):
        if healthy(api_url):
            return
        if time.monotonic() - said > 2:
            said = time.monotonic()
            say(f"The Prefect server is starting ({waited:.0f} s; its first start takes longest).")
        time.sleep(POLL_S)
    raise ServerUnavailable(
        f"The Prefect server did not start: after {waited:.0f} s it {'is silent' if alive(folder) else 'has ended'}.",
        hint=f"`{folder / 'server.log'}` says why; `--plain` runs without it.",
    )


def _stop(folder: Path) -> None:
    pid = json.loads((folder / "server.json").read_text())["pid"]
    for end in (signal.SIGTERM, signal.SIGKILL):
        if not alive(folder):
            return
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
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
