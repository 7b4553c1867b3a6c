"""The launcher: a process that runs one program after the other for its caller, each in forked, confined processes.

It is a fresh Python without our environment and without our files. It never reads programs, tests and verdicts: their
files are passed to the processes, so that no program finds anything in the memory that it inherits.

    python -c "… main(SOCKET, MODE, ROOT)"      # launcher_process.py starts it
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from nanochat.tools.sandbox.confinement import Confinement
from nanochat.tools.sandbox.job import CallerGone, Job
from nanochat.tools.sandbox.limits import Limits, Mode

LOADED = (
    "abc", "array", "base64", "bisect", "bz2", "calendar", "collections", "copy", "csv", "ctypes", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "hmac", "inspect", "io",
    "itertools", "json", "lzma", "math", "numbers", "operator", "pickle", "pprint", "random", "re", "secrets",
    "sqlite3", "statistics", "string", "struct", "textwrap", "threading", "time", "traceback", "types", "typing",
    "unicodedata", "uuid", "zlib",
)  # fmt: skip
"""Modules that programs often import, and those that need libraries outside of Python's own folder."""


def main(caller_file: int, mode: str, root: str) -> None:
    """Serves the caller on a socket until it is closed."""
    caller = socket.socket(fileno=caller_file)
    sys.path.remove(root)  # programs have the standard library only
    for name in LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    (known,) = (each for each in get_args(Mode) if each == mode)
    try:
        confinement = Confinement(known, [Path(each) for each in sys.path if Path(each).is_dir()])
    except OSError as error:
        return send(caller, {"unavailable": str(error)})
    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()
    send(caller, {})
    with suppress(CallerGone):
        while _serve(caller, confinement, child_ended):
            pass
    return confinement.close()


def _serve(caller: socket.socket, confinement: Confinement, child_ended: int) -> bool:
    """Runs one program. Returns whether there was a request."""
    text, files, _, _ = socket.recv_fds(caller, 65536, 3)
    if not text:
        return False
    request = json.loads(text)
    try:
        with Job(confinement, Limits(**request), caller.fileno(), child_ended) as job:
            answer = job.check(*files) if len(files) > 1 else job.run(*files)
    except OSError as error:
        answer = {"failed": str(error)}
    finally:
        for file in files:
            os.close(file)
    send(caller, answer)
    return True


def send(caller: socket.socket, answer: dict[str, Any]) -> None:
    text = json.dumps(answer).encode()
    caller.sendall(len(text).to_bytes(4, "little") + text)
