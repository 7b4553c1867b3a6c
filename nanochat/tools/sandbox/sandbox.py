"""The sandbox: runs programs that a model wrote, several at once, and judges them by tests."""

import atexit
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from queue import Empty, LifoQueue
from types import TracebackType
from typing import Any, Literal, Self

from nanochat import settings
from nanochat.errors import BadSource, SandboxFailed
from nanochat.tools.sandbox.launcher_process import LauncherFailed, LauncherProcess, ModeUnavailable
from nanochat.tools.sandbox.limits import MODES, Limits, Mode
from nanochat.tools.sandbox.self_check import self_check

VerdictName = Literal["right", "wrong", "time limit", "memory limit", "output limit"]
Ending = Literal["ended", "time limit", "memory limit", "output limit"]
_LIMITS = Limits()


@dataclass(frozen=True)
class Checked:
    """A program and the tests that judge it."""

    alternatives: tuple[str, ...]
    """Source text of the program; of several, the first that compiles."""
    entry_point: str
    """The function that the tests call."""
    tests: str
    """Calls `entry_point`, and may define `check(candidate)`, which is then called with it."""
    before: str = ""
    """Source text that the tests need, such as functions that they call."""


@dataclass(frozen=True)
class Verdict:
    """What the tests found."""

    name: VerdictName
    reason: str
    """The error, if the program is wrong."""
    seconds: float

    @property
    def right(self) -> bool:
        return self.name == "right"


@dataclass(frozen=True)
class Outcome:
    """What a program without tests did."""

    ending: Ending
    code: int
    """Exit code; minus the signal that ended it."""
    output: str
    errors: str
    """What it wrote to standard error."""
    seconds: float


class Sandbox:
    """Launchers that run programs, one each at a time; started when they are needed. Any thread may use it.

    Every method raises `SandboxFailed` if the sandbox does not work, whatever the programs are.
    """

    def __init__(self, modes: Sequence[Mode] = (), workers: int = 0) -> None:
        """`modes`: the first that works on this system is used; empty: those that `NANOCHAT_SANDBOX` accepts.

        `workers`: programs at once; 0: one for each core.
        """
        self._modes = modes or MODES[: MODES.index(settings.sandbox()) + 1]
        self._workers = workers or settings.cores()
        self._idle: LifoQueue[LauncherProcess] = LifoQueue()
        self._mode: Mode | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the launchers. They start again if another program is run."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    @property
    def mode(self) -> Mode:
        """How programs are confined on this system."""
        if self._mode is None:
            self._idle.put(self._launcher())
        assert self._mode
        return self._mode

    def run(self, program: str, limits: Limits = _LIMITS) -> Outcome:
        """Runs a program as `python program.py` does, without input, in an empty folder."""
        found = self._request(limits, {"alternatives": [program]})
        output, errors = found["printed"]
        return Outcome(found["ending"], found["code"], output, errors, found["seconds"])

    def check(
        self, programs: Sequence[Checked], limits: Limits = _LIMITS, report: Callable[[int], None] | None = None
    ) -> list[Verdict]:
        """Judges programs, as many at once as there are workers. `report` receives the number of finished ones.

        Raises `BadSource` if the tests themselves cannot run.
        """
        verdicts: list[Verdict] = []
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for verdict in pool.map(lambda each: self._check(each, limits), programs):
                    verdicts.append(verdict)
                    if report:
                        report(len(verdicts))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return verdicts

    def _check(self, checked: Checked, limits: Limits) -> Verdict:
        program = {"alternatives": checked.alternatives, "entry_point": checked.entry_point}
        tests = {"before": checked.before, "tests": checked.tests, "entry_point": checked.entry_point}
        found = self._request(limits, program, tests)
        if "error" in found:
            raise BadSource(f"The tests of `{checked.entry_point}` cannot run: {found['error']}.")
        if found["ending"] != "ended":
            return Verdict(found["ending"], "", found["seconds"])
        return Verdict(found["verdict"], found["reason"], found["seconds"])

    def _request(self, limits: Limits, program: dict[str, Any], tests: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a launcher answers; a launcher that fails is replaced once."""
        failure = None
        for _ in range(2):
            launcher = self._take()
            try:
                found = launcher.run(limits, program, tests)
                if tests and found["ending"] == "ended" and not found.keys() & {"verdict", "error"}:
                    self_check(launcher)  # the process of the tests ended: is it this machine?
                    found |= {"verdict": "wrong", "reason": "the tests ended without a verdict"}
            except LauncherFailed as error:
                launcher.close()
                failure = error
            except BaseException:
                launcher.close()
                raise
            else:
                self._idle.put(launcher)
                return found
        raise SandboxFailed(
            f"The sandbox for generated programs failed: {failure}.", hint="Nothing was judged; try again."
        ) from failure

    def _take(self) -> LauncherProcess:
        with suppress(Empty):
            return self._idle.get_nowait()
        return self._launcher()

    def _launcher(self) -> LauncherProcess:
        """A launcher of the strongest mode that this system has, which has passed the self-check."""
        missing: list[str] = []
        for mode in (self._mode,) if self._mode else self._modes:
            try:
                launcher = LauncherProcess(mode)
            except ModeUnavailable as error:
                missing.append(f"`{mode}`: {error}")
                continue
            except LauncherFailed as error:
                raise SandboxFailed(f"The sandbox for generated programs does not start: {error}.") from error
            try:
                self_check(launcher)
            except LauncherFailed as error:
                launcher.close()
                raise SandboxFailed(f"The sandbox for generated programs does not work: {error}.") from error
            except BaseException:
                launcher.close()
                raise
            self._mode = mode
            return launcher
        raise SandboxFailed(
            f"This system cannot confine generated programs ({'; '.join(missing)}).",
            hint="Allow user namespaces, or accept a weaker mode with `NANOCHAT_SANDBOX`: `docs/sandbox.md`.",
        )


@cache
def shared_sandbox() -> Sandbox:
    """The sandbox of this process, which is ended with it. Ranks share the cores."""
    sandbox = Sandbox(workers=max(1, settings.cores() // settings.world_size()))
    atexit.register(sandbox.close)
    return sandbox
