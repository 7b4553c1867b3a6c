"""Calls of Linux that Python 3.11 does not have, through the C library."""

import ctypes
import errno
import os
from typing import Any

from nanochat.tools.sandbox.syscall_numbers import numbers

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_LIBC = ctypes.CDLL(None, use_errno=True)


def libc(function: str, *arguments: Any) -> int:
    """Calls a function of the C library. Raises `OSError` with the function's name if it returns -1."""
    ctypes.set_errno(0)
    found: int = getattr(_LIBC, function)(*arguments)
    if found == -1:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return found


def system_call(name: str, *arguments: Any) -> int:
    """Calls the kernel. Integers are passed as C longs. Raises `OSError` with the name of the call."""
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    try:
        return libc("syscall", ctypes.c_long(numbers()[name]), *given)
    except OSError as error:
        raise OSError(error.errno, f"{name}: {os.strerror(error.errno or 0)}") from None


def prctl(option: int, *values: int) -> None:
    libc("prctl", option, *(ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    try:
        libc("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({kind or 'bind'} on `{target}`)") from None


def drop_capabilities() -> None:
    """Gives up every capability of this process; it cannot get one back, as it runs no other program."""
    version, own = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version, own)
    system_call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
