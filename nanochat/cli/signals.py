"""Signal handling of commands: SIGTERM and SIGHUP end a command like Ctrl-C, which releases leases and ends records.

A second signal ends it at once. As the first process of a container, a command runs in a child: see `run_with_signals`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from nanochat.errors import Terminated

ENDING = (signal.SIGTERM, signal.SIGHUP)
STOP_TIMEOUT_S = 40.0
"""Longer than a command waits for its stages and for a checkpoint that is being saved."""


def install_handlers() -> None:
    """Makes signals end this process like Ctrl-C. A signal that was ignored from the start (`nohup`) stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        return
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + received[0])
        received.append(number)
        watchdog = threading.Timer(STOP_TIMEOUT_S, os._exit, [128 + number])
        watchdog.daemon = True
        watchdog.start()
        raise Terminated(number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def run_with_signals(command: Callable[[], None]) -> None:
    """Runs a command; signals end it in an orderly way.

    The first process of a container has no default handlers, and must wait for orphans. So there the command runs in a
    child: the first process forwards signals, and waits for all other processes, such as a supervisor that still saves
    a checkpoint.
    """
    if os.getpid() == 1:
        child = os.fork()
        if child:
            sys.exit(_first_process(child))
    install_handlers()
    command()


def _first_process(child: int) -> int:
    code = 0

    def forward(number: int, frame: FrameType | None) -> None:
        signal.alarm(int(STOP_TIMEOUT_S))
        with suppress(ProcessLookupError):
            os.kill(child if child else -1, number)  # -1: all other processes

    def exit_now(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    at_keyboard = () if sys.stdin and sys.stdin.isatty() else (signal.SIGINT, signal.SIGQUIT)
    for number in (*ENDING, *at_keyboard):  # a terminal sends them to the child as well
        signal.signal(number, forward)
    signal.signal(signal.SIGALRM, exit_now)
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            return code
        if ended == child:
            code, child = os.waitstatus_to_exitcode(status), 0
            code = 128 - code if code < 0 else code
