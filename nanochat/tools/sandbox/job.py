"""One program in the launcher: its processes, its output, its clock, and its end."""

import fcntl
import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from nanochat.tools.sandbox import program, tests_process
from nanochat.tools.sandbox.confinement import Confinement
from nanochat.tools.sandbox.limits import Limits

CONFINED = b"confined"
CHUNK_BYTES = 65536
MOVED = 100
"""File descriptors are moved here before they get the numbers that a process expects."""


class CallerGone(Exception):
    """The process that requested the job has ended."""


class Job:
    """Runs one program, with tests or without. Nothing of it is left at the end of the `with` block.

    Methods raise `OSError` if a process cannot be started or confined, and `CallerGone`.
    """

    def __init__(self, confinement: Confinement, limits: Limits, caller: int, child_ended: int) -> None:
        """`caller`: readable when the caller has gone. `child_ended`: readable when a child process has ended."""
        self._confinement, self._limits, self._caller, self._child_ended = confinement, limits, caller, child_ended
        self._began = time.monotonic()
        self._files: set[int] = set()
        self._running: dict[int, str] = {}
        self._confined: list[int] = []
        self._codes: dict[str, int] = {}
        self._outputs: dict[int, bytearray] = {}
        self._kills = confinement.limit_group(limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kill_all()
        for each in self._files:
            os.close(each)

    def run(self, source: int) -> dict[str, Any]:
        """Runs a program by itself: how it ended, its exit code, and its output."""
        self._start_program({3: source}, lambda: program.run(program.read_file(3)))
        return self._outcome("program")

    def check(self, source: int, tests: int, result: int) -> dict[str, Any]:
        """Runs a program and its tests, which write their verdict to the file `result`."""
        (calls, calls_end), (answers, answers_end) = self._pipe(), self._pipe()
        self._start_program({3: source, 4: calls, 5: answers_end}, _serve)
        nowhere = self._open("/dev/null")
        self._start("tests", {1: nowhere, 2: nowhere, 3: tests, 4: calls_end, 5: answers, 6: result}, _decide)
        for each in (calls, calls_end, answers, answers_end):
            self._close(each)
        return self._outcome("tests")

    def _start_program(self, files: Mapping[int, int], entry: Callable[[], int]) -> None:
        ends: list[int] = []
        for _ in ("output", "error"):
            read, write = self._pipe()
            self._outputs[read] = bytearray()
            ends.append(write)
        self._start("program", {1: ends[0], 2: ends[1], **files}, entry)
        for end in ends:
            self._close(end)

    def _start(self, name: str, files: Mapping[int, int], entry: Callable[[], int]) -> None:
        """Forks a process that confines itself and runs `entry`, with the files under the given numbers only."""
        ready, ready_end = self._pipe()
        files = {0: self._open("/dev/null"), **files, 7: ready_end}
        self._confinement.before_fork()
        process = os.fork()
        if process == 0:
            _child(self._confinement, self._limits, files, entry)
        self._running[process] = name
        self._confined.append(ready)
        self._confinement.after_fork()
        self._close(ready_end)

    def _outcome(self, deciding: str) -> dict[str, Any]:
        """Waits for the end of the process `deciding`, or for a limit, and kills what is left."""
        for ready in self._confined:
            if (text := os.read(ready, CHUNK_BYTES)) != CONFINED:
                raise OSError(f"a process cannot be confined: {text.decode(errors='replace') or 'it ended'}")
        ending = self._wait_for(deciding)
        own_end = self._codes.get("program")
        self._kill_all()
        for output in self._outputs:
            self._keep(output, _available(output))
        if self._confinement.killed_by_memory(self._kills) or own_end == program.OUT_OF_MEMORY:
            ending = "memory limit"
        elif ending == "ended" and self._printed() > self._limits.output_bytes:
            ending = "output limit"
        elif ending == "ended" and own_end in (-signal.SIGXCPU, -signal.SIGKILL):  # the limit of processor time
            ending = "time limit"
        texts = [bytes(each[: self._limits.output_bytes]) for each in self._outputs.values()]
        return {
            "ending": ending,
            "code": self._codes["program"],
            "seconds": time.monotonic() - self._began,
            "printed": [text.decode("utf-8", "backslashreplace") for text in texts],
        }

    def _wait_for(self, deciding: str) -> str:
        """Why the wait ended: `ended`, `time limit` or `output limit`."""
        with selectors.DefaultSelector() as watched:
            for each in (self._caller, self._child_ended, *self._outputs):
                watched.register(each, selectors.EVENT_READ)
            while True:
                self._reap()
                if deciding in self._codes:
                    return "ended"
                remaining_s = self._began + self._limits.time_s - time.monotonic()
                if remaining_s <= 0:
                    return "time limit"
                for key, _ in watched.select(remaining_s):
                    if key.fd == self._caller:
                        raise CallerGone
                    part = os.read(key.fd, CHUNK_BYTES)
                    if key.fd == self._child_ended:
                        continue
                    if not part:
                        watched.unregister(key.fd)
                    self._keep(key.fd, part)
                    if self._printed() > self._limits.output_bytes:
                        return "output limit"

    def _keep(self, output: int, part: bytes) -> None:
        self._outputs[output] += part

    def _printed(self) -> int:
        return sum(map(len, self._outputs.values()))

    def _reap(self, wait: bool = False) -> None:
        for process, name in list(self._running.items()):
            found, status = os.waitpid(process, 0 if wait else os.WNOHANG)
            if found:
                self._codes[name] = os.waitstatus_to_exitcode(status)
                del self._running[process]

    def _kill_all(self) -> None:
        """Kills the processes of this job and all that they started, and waits for their end."""
        for process in self._running:
            os.kill(process, signal.SIGKILL)
        self._reap(wait=True)
        while left := self._confinement.other_children():
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(process, 0)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._files.update(ends)
        return ends

    def _open(self, path: str) -> int:
        opened = os.open(path, os.O_RDWR)
        self._files.add(opened)
        return opened

    def _close(self, file: int) -> None:
        os.close(file)
        self._files.discard(file)


def _serve() -> int:
    program.serve(program.read_file(3), 4, 5)
    return 0


def _decide() -> int:
    result = tests_process.verdict(program.read_file(3), 4, 5)
    os.write(6, json.dumps(result).encode())
    return 0


def _child(confinement: Confinement, limits: Limits, files: Mapping[int, int], entry: Callable[[], int]) -> None:
    """The process of a program or of its tests; it never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        group = confinement.members
        kept = {7: files[7], **files, **({8: group} if group is not None else {})}
        moved = {number: fcntl.fcntl(file, fcntl.F_DUPFD, MOVED) for number, file in kept.items()}
        os.closerange(0, MOVED)  # all files of the launcher
        for number, file in moved.items():
            os.dup2(file, number)
        os.closerange(MOVED, os.sysconf("SC_OPEN_MAX"))
        try:
            confinement.enter(limits, 8)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the program does not run
            os.write(7, f"{type(error).__name__}: {error}".encode()[:CHUNK_BYTES])
            os._exit(1)
        os.write(7, CONFINED)
        os.closerange(7, 9)
        os._exit(entry())
    finally:
        os._exit(1)


def _available(pipe: int) -> bytes:
    """What can be read from a pipe without waiting."""
    os.set_blocking(pipe, False)
    parts = bytearray()
    with suppress(BlockingIOError):
        while part := os.read(pipe, CHUNK_BYTES):
            parts += part
    return bytes(parts)
