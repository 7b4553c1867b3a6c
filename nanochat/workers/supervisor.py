"""The process between a run and torchrun, so that no process outlives the run.

    python -m nanochat.workers.supervisor LOG COMMAND…

Its standard input is a pipe from its parent. When the pipe closes, because the parent ended in any way, or when the
supervisor receives a signal, it sends TERM to torchrun, and KILL to all its descendants after a grace period. The ranks
have separate sessions, so it finds them by descent, not by process group; orphans are re-parented to it, because it is
their subreaper (Linux).
"""

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
    """Runs the command; returns its exit code."""
    log, command = Path(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ending = threading.Event()
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            env=supervised_environment(os.getpid()),
        )  # fmt: skip

    def on_signal(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)

    def wait_for_parent() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        ending.set()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    while child.poll() is None and not ending.wait(0.05):
        pass
    if child.poll() is None:
        end(child)
    kill(descendants())
    return child.wait()


def end(child: subprocess.Popen[bytes]) -> None:
    """Sends TERM, waits for a grace period in which training saves a checkpoint, then sends KILL."""
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
    """Sends KILL, and waits until the processes are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


if __name__ == "__main__":
    sys.exit(main())
