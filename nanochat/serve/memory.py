"""How much memory this process may still take: of the machine, or of its container."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def available_memory_bytes() -> int:
    """What can be allocated without swapping, and without exceeding the limit of a control group (cgroup v2)."""
    return min([psutil.virtual_memory().available, *_left_in_cgroups()])


def _left_in_cgroups() -> Iterator[int]:
    """What the limit of each group leaves, from that of this process up. Pages of files count as free."""
    with suppress(OSError, ValueError):
        own = next(line[3:] for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
        group = CGROUPS / own.lstrip("/")
        for folder in (group, *group.parents):
            if folder == CGROUPS.parent:
                return
            with suppress(OSError, ValueError):  # the root has no limit, and `max` is none
                limit = int((folder / "memory.max").read_text())
                used = int((folder / "memory.current").read_text())
                files = next(
                    int(line.split()[1])
                    for line in (folder / "memory.stat").read_text().splitlines()
                    if line.startswith("inactive_file ")
                )
                yield max(0, limit - used + files)
