"""Confines the processes of programs: what the launcher does once, and what each process does before its program."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path

from nanochat.tools.sandbox.control_group import ControlGroup
from nanochat.tools.sandbox.landlock import restrict_files
from nanochat.tools.sandbox.landlock import version as landlock_version
from nanochat.tools.sandbox.limits import Limits, Mode
from nanochat.tools.sandbox.namespaces import OUTSIDE_UID, Namespaces
from nanochat.tools.sandbox.seccomp import filter_program, refuse_system_calls
from nanochat.tools.sandbox.system_calls import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    drop_capabilities,
    prctl,
)

OPEN_FILES = 64
STACK_BYTES = 8 << 20
FIRST_PROCESS = 1
"""The id of a program in its namespace."""
PROCESSES = 3
"""The program, its tests, and the launcher."""
DEVICES = ("/dev/null", "/dev/urandom")


class Confinement:
    """The confinement of all programs of this launcher."""

    def __init__(self, mode: Mode, folders: Sequence[Path]) -> None:
        """Sets up what programs share; `folders` are the standard library. Raises `OSError` if the mode fails."""
        self.mode, self._folders = mode, [str(folder) for folder in folders]
        self._group: ControlGroup | None = None
        self._namespaces: Namespaces | None = None
        self._linux = sys.platform == "linux"
        self._other_user = os.getuid() == 0 and _is_readable(self._folders[0])
        if mode != "rlimits only":
            filter_program(FIRST_PROCESS, files=True)  # computed once; raises on an unknown machine
        if mode == "full":
            with suppress(OSError):
                self._group = ControlGroup(f"nanochat-sandbox-{os.getpid()}")
            try:
                self._namespaces = Namespaces(folders)
            except OSError:
                self.close()
                raise
        elif mode == "no namespaces":
            landlock_version()
        if self._linux:
            prctl(PR_SET_DUMPABLE, 0)  # our memory is not readable for a process of the same user
            prctl(PR_SET_CHILD_SUBREAPER, 1)

    def before_fork(self) -> None:
        if self._namespaces:
            self._namespaces.before_fork()

    def after_fork(self) -> None:
        if self._namespaces:
            self._namespaces.after_fork()

    @property
    def members(self) -> int | None:
        """The file through which a process joins the control group, if there is one."""
        return self._group.members if self._group else None

    def limit_group(self, limits: Limits) -> int:
        """Limits the control group for the next program. Returns how many processes it has killed until now."""
        if self._group is None:
            return 0
        self._group.limit(2 * (limits.memory_bytes + limits.files_bytes), PROCESSES + 2 * limits.threads)
        return self._group.kills()

    def killed_by_memory(self, before: int) -> bool:
        """Whether the control group has killed a process since `limit_group` returned `before`."""
        return self._group is not None and self._group.kills() > before

    def other_children(self) -> list[int]:
        """Processes that a program has started and left to this one; only the weakest mode allows any."""
        return _children_of(os.getpid()) if self.mode == "rlimits only" else []

    def close(self) -> None:
        if self._group:
            self._group.close()

    def enter(self, limits: Limits, group: int) -> None:
        """Confines this process, for good; `group` is its `members`. Raises `OSError` if any part fails."""
        if self._group:
            os.write(group, b"0")
        os.setsid()
        if self._namespaces:
            self._namespaces.enter_program(limits.files_bytes)
        else:
            os.chdir("/")
            if self._other_user:
                os.setgroups([])
                os.setresgid(OUTSIDE_UID, OUTSIDE_UID, OUTSIDE_UID)
                os.setresuid(OUTSIDE_UID, OUTSIDE_UID, OUTSIDE_UID)
        self._set_limits(limits)
        if not self._linux:
            return
        drop_capabilities()
        prctl(PR_SET_DUMPABLE, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which resets it
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if self.mode == "no namespaces":
            restrict_files(self._folders, DEVICES)
        if self.mode != "rlimits only":
            refuse_system_calls(files=self.mode == "full")

    def _set_limits(self, limits: Limits) -> None:
        wanted = {
            "AS": limits.memory_bytes,
            "CORE": 0,
            "CPU": ceil(limits.time_s) + 1,  # if the wall clock of the launcher failed
            "FSIZE": limits.files_bytes,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
            "NOFILE": OPEN_FILES,
            "STACK": STACK_BYTES,
        }
        if self._namespaces:
            wanted["NPROC"] = PROCESSES + limits.threads
        elif self.mode == "rlimits only":
            wanted["NPROC"] = _tasks_of(os.getuid()) + limits.threads
        for name, value in wanted.items():
            if (number := getattr(resource, f"RLIMIT_{name}", None)) is not None:  # not every system has all
                _limit(number, value)


def _limit(number: int, value: int) -> None:
    _, most = resource.getrlimit(number)
    lowest = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(number, (lowest, lowest))


def _tasks_of(user: int) -> int:
    """Threads of a user's processes, which `RLIMIT_NPROC` counts together."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid in (user, 0):  # 0: it is not dumpable
                count += sum(1 for _ in (process / "task").iterdir())
    return count


def _children_of(parent: int) -> list[int]:
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(process.name))
    return found


def _is_readable(folder: str) -> bool:
    """Whether another user than root can read a folder."""
    try:
        os.seteuid(OUTSIDE_UID)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EINVAL):  # a container with one user
            return False
        raise
    try:
        return os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
    finally:
        os.seteuid(0)
