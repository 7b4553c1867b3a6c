"""Valid names of objects, and names of foreign files: those that systems, file managers and editors leave in folders.

The store never lists, reads or deletes foreign files. Files of a payload may have any name: they are found by their
manifest, and listed with `everything` (see `Objects.list`).
"""

import os
from typing import Annotated

from pydantic import AfterValidator

LONGEST_BYTES = 255
"""Maximum length of one name in file systems."""

FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
ENDINGS = ("~", ".swp", ".swo", ".tmp", ".bak", ".orig")
FOLDERS = frozenset({"lost+found", "system volume information"})
BEGINNINGS = (".", "#", "@", "$", "~")
"""First characters of hidden files and folders (`.DS_Store`, `._x`, `.nfs…`, `.snapshot`, our own unfinished writes and
locks), and of those of file servers (`@eaDir`, `#recycle`, `$RECYCLE.BIN`) and office programs (`~$x`)."""


def is_foreign(path: str) -> bool:
    """Whether a file, or a folder above it, has a name that the store never uses."""
    *folders, file = path.split("/")
    lower = file.lower()
    return is_hidden(file) or lower in FILES or lower.endswith(ENDINGS) or any(is_hidden(folder) for folder in folders)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is ignored. No alias, stage or key can have such a name."""
    return not name or name.startswith(BEGINNINGS) or name.lower() in FOLDERS


def is_name(text: str) -> bool:
    """Whether a text can be the name of one file or folder, without a path."""
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        return False
    return len(text) * 4 <= LONGEST_BYTES or len(os.fsencode(text)) <= LONGEST_BYTES


def is_path(text: str) -> bool:
    """Whether a text is a relative path that stays below its folder."""
    return all(is_name(name) for name in text.split("/"))


def _one_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("it has to be one name")
    return text


def _relative_path(text: str) -> str:
    if not is_path(text):
        raise ValueError("it has to be a relative path without `.` and `..`")
    return text


ObjectName = Annotated[str, AfterValidator(_one_name)]
"""A stage, a key or an attempt in a record. Anything else could be a path to other objects."""
ObjectPath = Annotated[str, AfterValidator(_relative_path)]
"""A path in a record."""
