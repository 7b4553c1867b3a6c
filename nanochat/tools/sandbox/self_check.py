"""What a launcher must show before any program is judged by it: a broken sandbox is an error, not a score of zero."""

from dataclasses import replace

from nanochat.errors import SandboxFailed
from nanochat.tools.sandbox.launcher_process import LauncherProcess
from nanochat.tools.sandbox.limits import Limits

LIMITS = Limits(time_s=20.0)
"""Generous: these programs are ours, and the machine may be busy."""
TESTS = "def check(candidate):\n    assert candidate([1, 2]) == {'sum': 3}\n"
RIGHT = "import colorsys\n\ndef f(numbers):\n    return {'sum': sum(numbers)}\n"  # a module that is not loaded yet
WRONG = "def f(numbers):\n    return {'sum': 4}\n"
ENDLESS = "while True:\n    pass\n"
ENDLESS_S = 0.1
ESCAPES = """
import os, pathlib, socket
calls = {
    "read /etc/passwd": lambda: open("/etc/passwd").close(),
    "see other processes": lambda: os.listdir("/proc/self"),
    "write to the standard library": lambda: open(pathlib.__file__ + ".new", "w").close(),
    "open a socket": lambda: socket.socket().close(),
    "start a process": lambda: os.fork() or os._exit(0),
    "signal another process": lambda: os.kill(os.getppid() or 2, 0),
}
for name, call in calls.items():
    try:
        call()
    except OSError:
        continue
    print(name)
"""


def self_check(launcher: LauncherProcess) -> None:
    """Raises `SandboxFailed` if a right program fails, a wrong one passes, an endless one goes on, or one escapes.

    Raises `LauncherFailed` if the launcher ends or does not answer.
    """
    for source, expected in ((RIGHT, "right"), (WRONG, "wrong")):
        program = {"alternatives": [source], "entry_point": "f"}
        answer = launcher.run(LIMITS, program, {"before": "", "tests": TESTS, "entry_point": "f"})
        if answer.get("verdict") != expected:
            seen = answer.get("verdict", answer["ending"])
            raise _failed(f"a program that is {expected} was judged `{seen}` ({answer.get('reason', '')})")
    answer = launcher.run(replace(LIMITS, time_s=ENDLESS_S), {"alternatives": [ENDLESS]})
    if answer["ending"] != "time limit":
        raise _failed(f"an endless program ended with `{answer['ending']}`")
    if launcher.mode != "rlimits only":
        answer = launcher.run(LIMITS, {"alternatives": [ESCAPES]})
        if answer["code"] != 0 or answer["printed"][0]:
            raise _failed(f"a program could: {', '.join(answer['printed'][0].split(chr(10))) or answer['printed'][1]}")


def _failed(what: str) -> SandboxFailed:
    return SandboxFailed(
        f"The sandbox for generated programs does not work: {what}.",
        hint="Nothing was judged; `docs/sandbox.md` lists what it needs.",
    )
