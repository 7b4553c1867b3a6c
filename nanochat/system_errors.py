"""The messages for errors of the file system and the kernel, in one table."""

import errno
import os
from pathlib import Path

from nanochat.errors import NanochatError, NoSpace, NotEnoughMemory, SystemFailed, SystemRefused

PATH_CHARACTERS = 200
"""Maximum length of a path in a message."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
TRANSIENT = frozenset(
    {
        errno.ESTALE, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EBUSY,
        errno.ETIMEDOUT, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
"""A network disk is away, or a resource is exhausted: trying again may help."""

SENTENCES = {
    errno.EACCES: ("Permission denied for {path}", "Change its permissions, or choose another place."),
    errno.EPERM: ("The system does not allow this on {path}", "Change its permissions, or choose another place."),
    errno.EROFS: ("{path} is on a read-only file system", "Choose a place that can be written to."),
    errno.EMFILE: ("This process has too many files open ({path})", "Raise the limit: `ulimit -n 65536`."),
    errno.ENFILE: ("The system has too many files open ({path})", "Stop other programs, or raise `fs.file-max`."),
    errno.ENAMETOOLONG: ("The name of {path} is too long for its file system", "Choose a shorter path."),
    errno.ELOOP: ("{path} is a symbolic link to itself", "Remove the link, or choose another place."),
    errno.EIO: ("The disk failed at {path}", "Check the disk; the kernel log (`dmesg`) has details."),
    errno.ESTALE: ("The network file system has lost {path}", "Mount it again."),
    errno.ENOTCONN: ("The network file system of {path} is gone", "Mount it again."),
    errno.ENOLINK: ("{path} is a dangling link", "Remove the link, or restore its target."),
    errno.EISDIR: ("{path} is a folder where a file is needed", "Choose another path, or move the folder away."),
    errno.ENOTDIR: ("A part of the path {path} is a file, not a folder", "Choose another path, or move the file away."),
    errno.EEXIST: ("{path} exists, where another file or folder is needed", "Move it away, or choose another path."),
    errno.ENOENT: ("{path} does not exist", "Check the path."),
    errno.EBUSY: ("{path} is in use by another program", "Stop that program, or choose another place."),
    errno.ETXTBSY: ("{path} is in use by another program", "Stop that program, or choose another place."),
    errno.EFBIG: ("{path} is larger than its file system allows", "Choose another disk."),
    errno.EADDRINUSE: ("The network port is used by another program", "Stop that program, or choose another port."),
    errno.ENOSYS: ("The file system of {path} lacks a required function", "Choose a place on another disk."),
    errno.EOPNOTSUPP: ("The file system of {path} lacks a required function", "Choose a place on another disk."),
    errno.ENOLCK: ("The file system of {path} has no locks", "Choose a place on another disk."),
    errno.EAGAIN: ("The system cannot start more processes or threads", "Stop other programs, or raise `ulimit -u`."),
}
"""Error number → message and hint."""


def is_known(error: OSError) -> bool:
    """Whether the error has a message of its own."""
    if error.errno == errno.ENOENT:
        return bool(_path(error))
    return error.errno in DISK_FULL or error.errno == errno.ENOMEM or error.errno in SENTENCES


def from_system(error: OSError, what: str = "") -> NanochatError:
    """Converts a system error to `NoSpace`, `NotEnoughMemory`, `SystemFailed` (transient) or `SystemRefused`.

    `what` failed, as in the middle of a sentence: "the stage `pack`"; empty for the command itself.
    """
    path = _path(error)
    named = f"`{path}`" if path else "a file"
    if error.errno in DISK_FULL:
        which = "No space left" if error.errno == errno.ENOSPC else "The disk quota leaves no space"
        return NoSpace(
            f"{which} for {what or 'the command'}{f' ({named})' if path else ''}.",
            hint="Free some, or point `NANOCHAT_HOME` and `--store` at a larger disk.",
        )
    if error.errno == errno.ENOMEM:
        return NotEnoughMemory(_sentence(what, "The system has no memory left"), hint="Stop other programs.")
    kind = SystemFailed if error.errno in TRANSIENT else SystemRefused
    if is_known(error):
        sentence, hint = SENTENCES[error.errno or 0]
        return kind(_sentence(what, sentence.format(path=named)), hint=hint)
    hint = "Try again; if that does not help, check the disk." if error.errno in TRANSIENT else "Choose another place."
    return kind(_sentence(what, f"{named} cannot be used: {error.strerror or error}"), hint=hint)


def _sentence(what: str, sentence: str) -> str:
    """For example `The stage `pack`: permission denied for …`."""
    return f"{what[:1].upper()}{what[1:]}: {sentence[:1].lower()}{sentence[1:]}." if what else f"{sentence}."


def _path(error: OSError) -> str:
    """The path of the error; of two (link, move) the second, which is the target."""
    path: object = error.filename2 if error.filename2 is not None else error.filename
    return os.fsdecode(path)[:PATH_CHARACTERS] if isinstance(path, str | bytes | Path) else ""
