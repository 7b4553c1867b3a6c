"""Stands between us and torchrun, and sees to it that nothing survives us.

    python -m nanochat.workers.supervisor LOG COMMAND…

It holds a pipe to its parent (its standard input). When the pipe closes, because the parent ended, however it ended,
or when it is told to end itself, torchrun and everything below get a TERM, and after a grace period a KILL. Workers
of torchrun have sessions of their own, so they are found by descent and not by process group; orphans come to us,
because we are their subreaper (Linux).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from nanochat.settings import supervised_environment

GRACE_S = 20.0
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Runs the command; exits with its code."""
    log, command = Path(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ending = threading.Event()
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            env=supervised_environment(os.getpid()),
        )  # fmt: skip

    def told(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, told)

    def listen() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        ending.set()

    threading.Thread(target=listen, daemon=True).start()
    while child.poll() is None and not ending.wait(0.05):
        pass
    if child.poll() is None:
        end(child)
    kill(descendants())
    return child.wait()


def end(child: subprocess.Popen[bytes]) -> None:
    """TERM, a grace period in which training saves a checkpoint, KILL."""
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        kill(descendants())


def descendants() -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process().children(recursive=True)
    return []


def kill(processes: list[psutil.Process]) -> None:
    """KILL, and wait until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


if __name__ == "__main__":
    sys.exit(main())
