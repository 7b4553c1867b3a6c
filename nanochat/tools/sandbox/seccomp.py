"""The filter of system calls of a confined program: a list of those it may use, and nothing else.

It may not start a process or another program, open a socket, send a signal to another process, change its limits, trace
or map another process, make shared memory that no limit counts, or use keys, io_uring, namespaces and mounts. A refused
call fails with "Operation not permitted", and the program goes on. Calls newer than this list do not exist for it.
"""

import ctypes
import os
import struct
from dataclasses import dataclass
from functools import cache

from nanochat.tools.sandbox.syscall_numbers import AUDIT_ARCH, FIRST_NEW, machine, numbers
from nanochat.tools.sandbox.system_calls import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, prctl

SECCOMP_MODE_FILTER = 2
LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | 1, 0x00050000 | 38  # EPERM, ENOSYS
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
ALL = 0xFFFFFFFF

PLAIN = """
read write readv writev pread64 pwrite64 preadv pwritev close lseek fstat newfstatat stat lstat statx access faccessat
faccessat2 readlink readlinkat open openat getdents64 getcwd chdir fchdir dup dup2 dup3 flock fsync fdatasync ftruncate
fadvise64 sendfile copy_file_range pipe pipe2 poll ppoll select pselect6 epoll_create1 epoll_create epoll_ctl epoll_wait
epoll_pwait eventfd2 timerfd_create timerfd_settime timerfd_gettime sendto recvfrom sendmsg recvmsg shutdown getsockopt
setsockopt getsockname getpeername mmap munmap mprotect mremap madvise brk mincore rt_sigaction rt_sigprocmask
rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause alarm getitimer setitimer restart_syscall
futex set_robust_list get_robust_list rseq membarrier sched_yield sched_getaffinity sched_getparam sched_getscheduler
sched_get_priority_max sched_get_priority_min set_tid_address getcpu nanosleep clock_nanosleep clock_gettime
clock_getres gettimeofday time times getrusage getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid
getgroups getpgrp getpgid getsid getpriority umask uname sysinfo getrlimit getrandom exit exit_group wait4 waitid
"""
FILES = """
mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat chmod fchmod fchmodat
truncate utimensat fallocate statfs fstatfs
"""
"""Allowed only where the program sees no file system but its own."""


@dataclass(frozen=True)
class Argument:
    """A condition: argument `index`, masked, is one of `values`. `high` compares the upper half of its 64 bits."""

    index: int
    values: tuple[int, ...]
    mask: int = ALL
    high: bool = False


CLONE_THREAD, CLONE_NAMESPACES = 0x00010000, 0x7E020000
F_DUPFD_TO_SETLKW, F_OFD_LOCKS, F_DUPFD_CLOEXEC, F_GETPIPE_SZ = range(8), (36, 37, 38), 1030, 1032
TCGETS, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX = 0x5401, 0x541B, 0x5421, 0x5451, 0x5450
PR_SET_NAME, PR_GET_NAME, PR_SET_VMA = 15, 16, 0x53564D41
AF_UNIX, SOCK_STREAM = 1, 1


def conditions(own_pid: int) -> dict[str, tuple[Argument, ...]]:
    """System calls that are allowed with some arguments only: all conditions must hold."""
    return {
        "clone": (Argument(0, (CLONE_THREAD,), CLONE_THREAD | CLONE_NAMESPACES),),  # a thread, not a process
        "kill": (Argument(0, (own_pid,)),),
        "tgkill": (Argument(0, (own_pid,)),),
        "fcntl": (Argument(1, (*F_DUPFD_TO_SETLKW, *F_OFD_LOCKS, F_DUPFD_CLOEXEC, F_GETPIPE_SZ)),),
        "ioctl": (Argument(1, (TCGETS, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX)),),
        "prctl": (Argument(0, (PR_SET_NAME, PR_GET_NAME, PR_SET_VMA)),),
        "prlimit64": (Argument(0, (0, own_pid)), Argument(2, (0,)), Argument(2, (0,), high=True)),  # reads only
        # connected pairs for asyncio; a datagram socket could send to any address
        "socketpair": (Argument(0, (AF_UNIX,)), Argument(1, (SOCK_STREAM,), 0xF)),
    }


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _when(arguments: tuple[Argument, ...]) -> list[bytes]:
    """Allows the call if all conditions hold, and refuses it otherwise."""
    body: list[bytes] = []
    after = 2  # instructions that follow: allow, refuse
    for argument in reversed(arguments):
        tests: list[bytes] = []
        for number, value in enumerate(reversed(argument.values)):  # from the last: it refuses if unequal
            tests.insert(0, _instruction(EQUAL, value, number, 0 if number else after - 1))
        load = [_instruction(LOAD, 16 + 8 * argument.index + (4 if argument.high else 0))]
        if argument.mask != ALL:
            load.append(_instruction(AND, argument.mask))
        body = load + tests + body
        after += len(load) + len(tests)
    return [*body, _instruction(RETURN, ALLOW), _instruction(RETURN, REFUSE)]


@cache
def filter_program(own_pid: int, files: bool) -> bytes:
    """The filter as classic BPF. `files`: whether the program may change files. Raises `OSError`: unknown machine."""
    known = numbers()
    program = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(EQUAL, AUDIT_ARCH[machine()], 1, 0),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER),
    ]
    for name in (PLAIN + (FILES if files else "")).split():
        if name in known:
            program += [_instruction(EQUAL, known[name], 0, 1), _instruction(RETURN, ALLOW)]
    for name, arguments in conditions(own_pid).items():
        body = _when(arguments)
        program += [_instruction(EQUAL, known[name], 0, len(body)), *body]
    program += [
        _instruction(AT_LEAST, FIRST_NEW, 0, 1), _instruction(RETURN, UNKNOWN), _instruction(RETURN, REFUSE)
    ]  # fmt: skip
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse_system_calls(files: bool) -> None:
    """Installs the filter for this process, for good. Raises `OSError` if the kernel has no filters."""
    program = filter_program(os.getpid(), files)
    buffer = ctypes.create_string_buffer(program, len(program))
    given = _Program(len(program) // len(_instruction(0, 0)), ctypes.addressof(buffer))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(given))
