"""Namespaces of a launcher and of the programs that it forks: own users, processes, mounts, network, IPC, host name.

The launcher sets up the file system once: Python's standard library, read-only, two devices, and nothing else. Each
program gets a PID namespace, in which it is process 1, and a mount namespace with a `/tmp` in memory.

Raises `OSError` where the kernel or a container does not allow namespaces.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from nanochat.tools.sandbox.system_calls import PR_SET_PDEATHSIG, libc, mount, prctl, system_call

NEW_NS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REMOUNT, NO_ATIME = 1, 2, 4, 8, 32, 1024
NO_DIR_ATIME, BIND, RECURSIVE, PRIVATE, REL_ATIME = 2048, 4096, 16384, 1 << 18, 1 << 21
KEPT = {1: READ_ONLY, 2: NO_SUID, 4: NO_DEV, 8: NO_EXEC, 1024: NO_ATIME, 2048: NO_DIR_ATIME, 4096: REL_ATIME}
"""Flags of `statvfs` that a mount must keep when it becomes read-only."""
DETACH = 2
PROGRAM_UID = 1000
"""User and group of programs, as they see it."""
OUTSIDE_UID = 65534
"""User and group of programs outside, if the launcher's user is root."""
DEVICES = ("/dev/null", "/dev/urandom")
SCRATCH = ("/tmp", "/scratch")  # noqa: S108 - of the program, not of this machine
"""The program's own folder: the second if Python is installed below the first."""
_BEFORE = "/before"
MOUNT_POINTS = ("/tmp", "/var", "/mnt", "/run", "/usr")  # noqa: S108 - any folder: only this process sees the mount


class Namespaces:
    """The namespaces that this process has entered; it is process 1 of them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Moves this process (in fact a child, which goes on) into them; `folders` stay visible, read-only."""
        hidden = any(Path(SCRATCH[0]) in folder.parents for folder in folders)
        self._scratch = SCRATCH[hidden]
        self._mapped_root = _new_user_namespace()
        _continue_in_child()
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        libc("sethostname", b"sandbox", 7)
        _new_root({folder: folder.resolve() for folder in folders}, self._scratch)

    def before_fork(self) -> None:
        """The next child is process 1 of a PID namespace."""
        libc("unshare", NEW_PID)

    def after_fork(self) -> None:
        """Further children are in our own again, until the next `before_fork`."""
        libc("setns", self._own_pids, NEW_PID)

    def enter_program(self, files_bytes: int) -> None:
        """In the child: a folder of its own, which is the working directory, and a user without rights."""
        libc("unshare", NEW_NS)
        owner = f"mode=0700,uid={PROGRAM_UID},gid={PROGRAM_UID}"
        mount("tmpfs", self._scratch, "tmpfs", NO_SUID | NO_DEV | NO_EXEC, f"size={files_bytes},nr_inodes=1024,{owner}")
        os.chdir(self._scratch)
        if self._mapped_root:
            os.setgroups([])
            os.setresgid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)
            os.setresuid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)


def _new_user_namespace() -> bool:
    """Enters the namespaces. Returns whether this user is root in them: it is if it is root outside."""
    uid, gid = os.getuid(), os.getgid()
    ready_read, ready_write = os.pipe()
    mapper = os.fork() if uid == 0 else None
    if mapper == 0:  # only a process outside may map more than one user
        os.close(ready_write)
        parent, status = os.getppid(), 1
        with suppress(OSError):
            if os.read(ready_read, 1):
                users = f"0 0 1\n{PROGRAM_UID} {OUTSIDE_UID} 1\n"
                Path(f"/proc/{parent}/uid_map").write_text(users)
                Path(f"/proc/{parent}/gid_map").write_text(users)
                status = 0
        os._exit(status)
    libc("unshare", NEW_USER | NEW_NS | NEW_UTS | NEW_IPC | NEW_NET | NEW_PID)
    mapped = False
    if mapper is not None:
        os.write(ready_write, b"1")
        mapped = os.waitpid(mapper, 0)[1] == 0
    if not mapped:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{PROGRAM_UID} {uid} 1\n")
        Path("/proc/self/gid_map").write_text(f"{PROGRAM_UID} {gid} 1\n")
    os.close(ready_read)
    os.close(ready_write)
    return mapped


def _continue_in_child() -> None:
    """Forks: the child, process 1 of the new PID namespace, returns; the parent waits for it, and ends with it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    prctl(PR_SET_PDEATHSIG, 9)


def _new_root(folders: Mapping[Path, Path], scratch: str) -> None:
    """Replaces `/` by a file system in memory, read-only, with folders (name → place now) and devices bound into it."""
    mount("none", "/", "", PRIVATE | RECURSIVE)
    point = next(each for each in MOUNT_POINTS if Path(each).is_dir())
    mount("tmpfs", point, "tmpfs", NO_SUID | NO_DEV, "size=1m,mode=0755")
    Path(point + _BEFORE).mkdir()
    system_call("pivot_root", point.encode(), (point + _BEFORE).encode())
    os.chdir("/")
    empty = Path("/empty")
    empty.mkdir()
    for folder, place in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        _bind(Path(f"{_BEFORE}{place}"), folder)
        if (folder / "site-packages").is_dir():  # programs have the standard library only
            _bind(empty, folder / "site-packages")
    Path("/dev").mkdir()
    for device in DEVICES:
        Path(device).touch()
        mount(_BEFORE + device, device, "", BIND)
    Path(scratch).mkdir()
    libc("umount2", _BEFORE.encode(), DETACH)
    Path(_BEFORE).rmdir()
    mount("none", "/", "", REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)


def _bind(source: Path, target: Path) -> None:
    """Binds a folder, read-only."""
    mount(str(source), str(target), "", BIND | RECURSIVE)
    flags = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in KEPT.items() if flags & bit)
    mount("none", str(target), "", REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV | kept)
