"""Names of files that are not ours: what systems, file managers, editors and file servers leave in folders.

One rule for the whole store. Such files are never listed, read or deleted. Files of a payload may have any name: they
are found by their manifest, and listed with `everything` (see `Objects.list`).
"""

from __future__ import annotations

FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
ENDINGS = ("~", ".swp", ".swo", ".tmp", ".bak", ".orig")
FOLDERS = frozenset({"lost+found", "system volume information"})
BEGINNINGS = (".", "#", "@", "$", "~")
"""Of hidden files and folders (`.DS_Store`, `._x`, `.nfs…`, `.snapshot`, our own unfinished writes and locks), and of
what is made by file servers (`@eaDir`, `#recycle`, `$RECYCLE.BIN`) and office programs (`~$x`)."""


def is_foreign(path: str) -> bool:
    """Whether a file has a name, or is in a folder with a name, that we never use."""
    *folders, file = path.split("/")
    lower = file.lower()
    return is_hidden(file) or lower in FILES or lower.endswith(ENDINGS) or any(is_hidden(folder) for folder in folders)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is never looked at. No alias, stage or key can have such a name."""
    return not name or name.startswith(BEGINNINGS) or name.lower() in FOLDERS
