"""Landlock: where there are no namespaces, a program may read the standard library and open nothing else."""

import ctypes
import os
import struct
from collections.abc import Iterable

from nanochat.tools.sandbox.system_calls import PR_SET_NO_NEW_PRIVS, prctl, system_call

VERSION_FLAG = 1
PATH_BENEATH = 1
READ_FILE, READ_FOLDER, WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
RIGHTS = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
"""File rights, and the version of Landlock that added them."""
NETWORK_VERSION, NETWORK = 4, 0b11
SCOPE_VERSION, SCOPES = 6, 0b11


def version() -> int:
    """The kernel's version of Landlock. Raises `OSError` if it has none, or if it is turned off."""
    return system_call("landlock_create_ruleset", 0, 0, VERSION_FLAG)


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Restricts this process to reading what is below `readable`, and to the files (devices) in `writable`.

    Signals to other processes, TCP and abstract sockets are refused too, where this kernel can. Raises `OSError`.
    """
    found = version()
    handled = sum(rights for since, rights in RIGHTS if found >= since)
    network = NETWORK if found >= NETWORK_VERSION else 0
    scopes = SCOPES if found >= SCOPE_VERSION else 0
    attributes = struct.pack("=QQQ", handled, network, scopes)
    length = 24 if scopes else 16 if network else 8
    rules = system_call("landlock_create_ruleset", ctypes.c_char_p(attributes), length, 0)
    try:
        for paths, rights in ((readable, READ_FILE | READ_FOLDER), (writable, READ_FILE | WRITE_FILE)):
            for path in paths:
                _allow(rules, path, rights)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        system_call("landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH)
    try:
        rule = struct.pack("=Qi", rights, opened)
        system_call("landlock_add_rule", rules, PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(opened)
