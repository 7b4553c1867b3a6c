"""What a signal does to a command: SIGTERM and SIGHUP end it as Ctrl-C does, with leases given back and records ended.

The second signal ends it at once. As the first process of a container a command has duties besides: see `main`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from nanochat.errors import Terminated

ENDING = (signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 40.0
"""Longer than a command's own patience with its stages and with a checkpoint that is being saved."""


def handle() -> None:
    """Lets signals end this process as Ctrl-C does. One that was ignored from the start (`nohup`) stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # only there does Python handle signals
        return
    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if told:
            os._exit(128 + told[0])
        told.append(number)
        watchdog = threading.Timer(PATIENCE_S, os._exit, [128 + number])
        watchdog.daemon = True
        watchdog.start()
        raise Terminated(number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def guarded(command: Callable[[], None]) -> None:
    """Runs a command so that signals end it in order.

    The kernel gives the first process of a container no default handlers, and orphans to wait for, so there the command
    runs in a child: the first process hands signals on, and stays until all others have ended, a supervisor that still
    saves a checkpoint too.
    """
    if os.getpid() == 1:
        child = os.fork()
        if child:
            sys.exit(_first_process(child))
    handle()
    command()


def _first_process(child: int) -> int:
    told = threading.Event()
    code = 0

    def hand_on(number: int, frame: FrameType | None) -> None:
        told.set()
        signal.alarm(int(PATIENCE_S))
        with suppress(ProcessLookupError):
            os.kill(child if child else -1, number)  # -1: all but us

    def give_up(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    at_keyboard = () if sys.stdin and sys.stdin.isatty() else (signal.SIGINT, signal.SIGQUIT)
    for number in (*ENDING, *at_keyboard):  # from a keyboard, the child gets them as well
        signal.signal(number, hand_on)
    signal.signal(signal.SIGALRM, give_up)
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            return code
        if ended == child:
            code, child = os.waitstatus_to_exitcode(status), 0
            code = 128 - code if code < 0 else code
