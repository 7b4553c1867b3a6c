"""A control group (cgroup v2) for the processes of one launcher, on systems where this process may make one.

It counts memory that no limit of a single process counts: pages of files in memory, buffers of the kernel.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNTS, OWN = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")


class ControlGroup:
    """A group below the nearest group that this process may write to. Raises `OSError` if there is none."""

    def __init__(self, name: str, mounts: Path = MOUNTS, own: Path = OWN) -> None:
        self._name = name
        for parent in parents(mounts, own):
            with suppress(OSError):
                (parent / name).mkdir()
                self._parent = os.open(parent, os.O_PATH)
                self._folder = os.open(parent / name, os.O_PATH)
                self.members = os.open("cgroup.procs", os.O_WRONLY, dir_fd=self._folder)
                """A process that writes `0` to it joins the group."""
                self._write("memory.swap.max", 0, required=False)
                self._write("memory.oom.group", 1, required=False)
                return
        raise OSError("no cgroup v2 that this process may divide")

    def limit(self, memory_bytes: int, processes: int) -> None:
        self._write("memory.max", memory_bytes)
        self._write("pids.max", processes, required=False)

    def kills(self) -> int:
        """How many processes the kernel has killed because the group's memory was used up."""
        events = os.open("memory.events", os.O_RDONLY, dir_fd=self._folder)
        try:
            lines = os.read(events, 4096).decode().splitlines()
        finally:
            os.close(events)
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def close(self) -> None:
        """Removes the group, which must be empty. Works from inside of another mount namespace."""
        for each in (self.members, self._folder):
            os.close(each)
        with suppress(OSError):
            os.rmdir(self._name, dir_fd=self._parent)
        os.close(self._parent)

    def _write(self, name: str, value: int, required: bool = True) -> None:
        try:
            file = os.open(name, os.O_WRONLY, dir_fd=self._folder)
        except FileNotFoundError:
            if required:
                raise
            return
        try:
            os.write(file, str(value).encode())
        finally:
            os.close(file)


def parents(mounts: Path, own: Path) -> Iterator[Path]:
    """Groups that distribute memory to their children: our own first, then those above it."""
    fields = (line.split() for line in mounts.read_text().splitlines())
    found = [Path(each[4]) for each in fields if each[each.index("-") + 1] == "cgroup2"]
    ours = [line.removeprefix("0::") for line in own.read_text().splitlines() if line.startswith("0::")]
    if not found or not ours:
        return
    group = found[0] / ours[0].lstrip("/")
    while True:
        with suppress(OSError):
            if "memory" in (group / "cgroup.subtree_control").read_text().split():
                yield group
        if group == found[0] or found[0] not in group.parents:
            return
        group = group.parent
