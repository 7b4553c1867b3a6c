"""Nothing of a program is left, whatever ends it; a lost launcher is replaced, and a broken one is an error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nanochat.errors import SandboxFailed
from nanochat.tools.sandbox import launcher_process
from nanochat.tools.sandbox.limits import Limits
from nanochat.tools.sandbox.sandbox import Checked, Sandbox
from tests.waiting import until

LONG = Limits(time_s=60)
RIGHT = Checked(("def f(x): return x + 1",), "f", "def check(f): assert f(1) == 2")
SLOW = Checked(("import time; time.sleep(1)\ndef f(x): return x + 1",), "f", "def check(f): assert f(1) == 2")
ENDS = (
    "pass",
    "import os; os._exit(3)",
    "raise ValueError",
    "while True: pass",
    "import threading\nfor _ in range(5): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
    "import os\nos.fork()",
    "import os\nfor n in range(20): open(str(n), 'w').write('x' * 1000)\nos.abort()",
    "import ctypes; ctypes.string_at(0)",
    "while True: print('line' * 1000)",
    "x = bytearray(4 << 30)",
)


def processes() -> set[int]:
    return {each.pid for each in psutil.Process().children(recursive=True)}


def files_of(process: int | str) -> int:
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def things() -> dict[str, object]:
    """What programs could leave: processes, zombies, open files, mounts, control groups."""
    own = psutil.Process().children(recursive=True)
    found: dict[str, object] = {"processes": {each.pid for each in own}, "files": files_of("self")}
    found["zombies"] = [each.pid for each in own if each.status() == psutil.STATUS_ZOMBIE]
    for each in own:
        try:
            found[f"files of {each.pid}"] = files_of(each.pid)
            found[f"mounts of {each.pid}"] = Path(f"/proc/{each.pid}/mountinfo").read_text()
        except PermissionError:  # an ordinary user cannot see into its own launcher
            pass
    found["groups"] = [str(each) for each in Path("/sys/fs/cgroup").glob("**/nanochat-sandbox-*")]
    return found


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_case_23_a_hundred_programs_leave_nothing(full: Sandbox) -> None:
    """rllm#915: after 100 programs, also such that were stopped, there is no process, zombie, file or mount more."""
    with Sandbox(("full",), workers=1) as sandbox:
        sandbox.run("pass", LONG)
        before = things()
        for number in range(10):
            for text in ENDS:
                limits = Limits(time_s=0.05) if text in (ENDS[3], ENDS[4]) else LONG
                outcome = sandbox.run(text, limits)
                assert outcome.ending != "ended" or text not in (ENDS[3], ENDS[4]), (number, outcome)
        assert things() == before


def test_a_closed_sandbox_leaves_no_process() -> None:
    before = processes()
    with Sandbox(workers=2) as sandbox:
        sandbox.check([RIGHT] * 4, LONG)
        assert processes() > before
    assert processes() == before


def test_grandchildren_are_killed_where_they_can_be_started(rlimits_only: Sandbox) -> None:
    text = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
print("started", flush=True)
time.sleep(1000)
"""
    rlimits_only.run("pass", LONG)
    before = processes()
    outcome = rlimits_only.run(text, Limits(time_s=2))
    assert (outcome.ending, outcome.output) == ("time limit", "started\n")
    assert processes() == before


def test_programs_end_with_the_process_that_runs_them(full: Sandbox) -> None:
    """It is killed, so it can end nothing itself."""
    code = "from nanochat.tools.sandbox.sandbox import *\nfrom nanochat.tools.sandbox.limits import *\n"
    code += "Sandbox(('full',), 1).run('while True: pass', Limits(time_s=600))"
    with subprocess.Popen([sys.executable, "-c", code]) as caller:
        known: list[psutil.Process] = []

        def running() -> bool:
            known[:] = psutil.Process(caller.pid).children(recursive=True)
            return len(known) == 3 and known[-1].cpu_times().user > 0.2

        until(running, "the program")
        caller.kill()
    until(lambda: not any(map(is_alive, known)), "the end of the program")


class Launcher:
    """The two processes of the only launcher of a sandbox."""

    def __init__(self, before: set[int]) -> None:
        (self.outer,) = (each for each in psutil.Process().children() if each.pid not in before)
        (self.inner,) = self.outer.children()

    def when_running(self, action: Callable[[], object]) -> threading.Thread:
        """Calls `action` while the launcher runs a program."""

        def act() -> None:
            until(self.inner.children, "the program", every_s=0.01)
            action()

        thread = threading.Thread(target=act)
        thread.start()
        return thread


@pytest.fixture
def one() -> Iterator[tuple[Sandbox, Launcher]]:
    """A sandbox with one launcher, which is idle."""
    before = processes()
    with Sandbox(workers=1) as sandbox:
        if sandbox.mode != "full":
            pytest.skip("no namespaces here")
        yield sandbox, Launcher(before)
    assert processes() == before


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_a_launcher_that_is_killed_is_replaced(one: tuple[Sandbox, Launcher], which: str) -> None:
    sandbox, launcher = one
    thread = launcher.when_running(getattr(launcher, which).kill)
    assert [verdict.name for verdict in sandbox.check([SLOW], LONG)] == ["right"]
    thread.join()
    assert not is_alive(launcher.outer)
    assert not is_alive(launcher.inner)


def test_an_idle_launcher_that_is_killed_is_replaced(one: tuple[Sandbox, Launcher]) -> None:
    sandbox, launcher = one
    launcher.inner.kill()
    launcher.inner.wait(60)
    assert [verdict.name for verdict in sandbox.check([RIGHT], LONG)] == ["right"]


def test_case_24_a_launcher_that_does_not_answer_is_replaced(
    one: tuple[Sandbox, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller has a clock of its own."""
    sandbox, launcher = one
    monkeypatch.setattr(launcher_process, "GRACE_S", 1.0)
    thread = launcher.when_running(lambda: [launcher.inner.suspend(), launcher.outer.suspend()])
    assert [verdict.name for verdict in sandbox.check([SLOW], Limits(time_s=8))] == ["right"]
    thread.join()
    assert not is_alive(launcher.inner)


BROKEN = {
    "all programs are right": "tests_process.verdict = lambda *_: {'verdict': 'right', 'reason': ''}",
    "all programs are wrong": "tests_process.verdict = lambda *_: {'verdict': 'wrong', 'reason': ''}",
    "the tests end": "tests_process.verdict = lambda *_: os._exit(1)",
    "no filter": "confinement.refuse_system_calls = lambda files: None",
    "no limits of time": "job.Job._wait_for = lambda self, deciding: 'ended'",
    "a filter that cannot be set": "confinement.refuse_system_calls = lambda files: 1 / 0",
    "no fork": "os.fork = lambda: (_ for _ in ()).throw(OSError(11, 'Resource temporarily unavailable'))",
    "launchers that end": "launcher._serve = lambda *_: os._exit(1)",
    "launchers that do not start": "os._exit(1)",
}


@pytest.mark.parametrize("name", BROKEN)
def test_case_25_a_broken_sandbox_is_an_error(name: str, full: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """NeMo-Gym#2015: and not a score of zero."""
    monkeypatch.setattr(launcher_process, "SCRIPT", script(BROKEN[name]))
    before = processes()
    with Sandbox(("full",), workers=1) as sandbox:
        with pytest.raises(SandboxFailed):
            sandbox.check([RIGHT], LONG)
        with pytest.raises(SandboxFailed):
            sandbox.run("print(1)", LONG)
    assert processes() == before


def script(change: str) -> str:
    """The launcher's script with a change to its modules."""
    package = "from nanochat.tools.sandbox"
    first, second = launcher_process.SCRIPT.split(package)
    imports = f"{package} import confinement, job, launcher, limits, program, tests_process"
    return f"{first}\nimport os\n{imports}\n{change}\n{package}{second}"


def test_a_sandbox_that_breaks_later_is_an_error_too(one: tuple[Sandbox, Launcher]) -> None:
    """The process of the tests is killed: then the self-check decides whether it is this program or the machine."""
    sandbox, _ = one
    ending = Checked(("def f(x): return x",), "f", "import os\ndef check(f): os._exit(1)")
    assert [verdict.reason for verdict in sandbox.check([ending], LONG)] == ["the tests ended without a verdict"]


def test_a_program_that_ends_the_launcher_each_time_is_an_error(one: tuple[Sandbox, Launcher]) -> None:
    sandbox, _ = one
    stop = threading.Event()

    def kill_all() -> None:
        while not stop.is_set():
            with suppress(psutil.Error, AttributeError):  # it has ended meanwhile
                for each in psutil.Process().children(recursive=True):
                    if each.children() and each.parent().pid != os.getpid():
                        each.kill()
            stop.wait(0.01)

    thread = threading.Thread(target=kill_all)
    thread.start()
    try:
        with pytest.raises(SandboxFailed):
            sandbox.check([SLOW], LONG)
    finally:
        stop.set()
        thread.join()
