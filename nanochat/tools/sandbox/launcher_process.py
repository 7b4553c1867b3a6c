"""The launcher as its caller sees it: a process that is started, receives programs, and is ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nanochat
from nanochat import settings
from nanochat.tools.sandbox.limits import Limits, Mode

START_TIMEOUT_S = 60.0
GRACE_S = 10.0
"""What a job may take beyond the time limit of its program, which the launcher enforces, before it is given up."""
RESULT_BYTES = 65536
SCRIPT = "import sys; sys.path.append(sys.argv[3]); from nanochat.tools.sandbox.launcher import main; "
SCRIPT += "main(int(sys.argv[1]), sys.argv[2], sys.argv[3])"
ROOT = Path(nanochat.__file__).parent.parent


class LauncherFailed(Exception):
    """The launcher ended, did not answer in time, or could not confine a process."""


class ModeUnavailable(LauncherFailed):
    """This system does not have all layers of a mode."""


class LauncherProcess:
    """One launcher. Use it from one thread at a time."""

    def __init__(self, mode: Mode, time_s: float = START_TIMEOUT_S) -> None:
        """Starts it. Raises `ModeUnavailable` or `LauncherFailed`."""
        self.mode = mode
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - no pipe: reading it waits for no process that is left
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-c", SCRIPT, str(other.fileno()), mode, str(ROOT)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=settings.sandbox_environment(),
                pass_fds=[other.fileno()],
                start_new_session=True,  # a Ctrl-C is not for it
                cwd="/",
            )
        try:
            answer = self._answer(time_s)
        except BaseException:
            self.close()
            raise
        if "unavailable" in answer:
            self.close()
            raise ModeUnavailable(answer["unavailable"])

    def run(self, limits: Limits, program: dict[str, Any], tests: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs a program, with tests or without. Raises `LauncherFailed`.

        Returns `ending`, `code`, `seconds` and `printed`; of tests that ended also `verdict` and `reason`, or `error`.
        """
        files = [_file(program)] if tests is None else [_file(program), _file(tests), _file()]
        try:
            socket.send_fds(self._socket, [json.dumps(asdict(limits)).encode()], files)
            answer = self._answer(limits.time_s + GRACE_S)
            if tests is not None and (text := os.pread(files[2], RESULT_BYTES, 0)):
                answer |= json.loads(text)
        except OSError as error:
            raise LauncherFailed(self._why(f"the launcher ended: {error}")) from error
        finally:
            for file in files:
                os.close(file)
        if "failed" in answer:
            raise LauncherFailed(answer["failed"])
        return answer

    def close(self) -> None:
        """Ends the launcher with everything that it started."""
        self._socket.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._errors.close()

    def _answer(self, time_s: float) -> dict[str, Any]:
        self._socket.settimeout(time_s)
        try:
            text = self._read(int.from_bytes(self._read(4), "little"))
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise LauncherFailed(f"the launcher did not answer within {time_s:g} s") from None
        except (EOFError, ConnectionError):
            raise LauncherFailed(self._why("the launcher ended")) from None
        return json.loads(text)

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(min(count - len(parts), 1 << 20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _why(self, what: str) -> str:
        """The failure with the last line that the launcher wrote."""
        with suppress(subprocess.TimeoutExpired, OSError):
            self._process.wait(GRACE_S)
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            return f"{what} ({lines[-1]})" if lines else what
        return what


def _file(content: dict[str, Any] | None = None) -> int:
    """An open file without a name, which is empty or has this content."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("source")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    if content is not None:
        with os.fdopen(os.dup(file), "wb") as writer:
            writer.write(json.dumps(content).encode())  # ASCII: also of text that is not valid Unicode
    return file
