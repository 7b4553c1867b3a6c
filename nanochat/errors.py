"""Every error a user can meet, each a sentence with its way out."""

from __future__ import annotations

import errno


class NanochatError(Exception):
    """A failure that a person can mend.

    `message` says in one sentence what is wrong and names the field, file or address; `hint` says what to do.
    `transient` errors may pass by themselves: a runner tries again.
    """

    transient = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def to_json(self) -> dict[str, str]:
        return {"type": type(self).__name__, "message": self.message, "hint": self.hint}


class Terminated(SystemExit):
    """A signal told this process to end. Not an error: it passes everything that catches those, up to the exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class BadConfig(NanochatError):
    """A setting that cannot work: unknown field, wrong type, out of range, arithmetic that does not divide."""


class BadSource(NanochatError):
    """Raw data that cannot be read: missing, empty, truncated, without the text column, not UTF-8."""


class SourceUnreachable(NanochatError):
    """The network or the server of a source failed; trying again may help."""

    transient = True

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        """So long does the server ask us to wait."""


class DamagedTransfer(SourceUnreachable):
    """The bytes that came are not those that the source promises."""


class StoreError(NanochatError):
    """The store refused or cannot be used: bad address, bad credentials, no create-only writes."""


class StoreUnreachable(StoreError):
    """The store did not answer; trying again may help."""

    transient = True


class DamagedAnswer(StoreUnreachable):
    """The bytes that came from the store are not those that it promises."""


class NoSpace(NanochatError):
    """No space left on a disk."""


class DiskRefused(NanochatError):
    """A disk of this machine refused: no right, read-only, not a folder."""


class DiskFailed(NanochatError):
    """A disk of this machine failed, or the system was short of something; trying again may help."""

    transient = True


class NotEnoughMemory(NanochatError):
    """The model or batch does not fit the memory of the device."""


class NotFound(NanochatError):
    """An artifact, alias or profile that the store or the program does not have."""


class DamagedArtifact(NanochatError):
    """Bytes in the store differ from what the manifest says."""


class NewerFormat(NanochatError):
    """A record in the store that a newer version wrote."""


class WrongKind(NanochatError):
    """A stage was given an artifact of another kind than it takes."""


class Diverged(NanochatError):
    """Training produced NaN, or the loss exploded."""


class StageFailed(NanochatError):
    """A child process ended without a result."""


class Hung(StageFailed):
    """A rank stood still; the same run goes on from the last checkpoint."""

    transient = True


class Preempted(StageFailed):
    """Training was told to stop, and saved a checkpoint: the same run goes on from there."""

    transient = True


class Unexpected(NanochatError):
    """An error that nobody planned for; the hint names the file with its traceback. See `failures.as_sentence`."""


def from_json(error: dict[str, str]) -> NanochatError:
    """The error that a child process wrote with `to_json`; an unknown type becomes `StageFailed`."""
    kinds = {kind.__name__: kind for kind in _family(NanochatError)}
    return kinds.get(error.get("type", ""), StageFailed)(
        error.get("message", "unknown error"), hint=error.get("hint", "")
    )


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING = frozenset(
    {
        errno.ESTALE, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EBUSY,
        errno.ETIMEDOUT, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
"""Of a disk on the network that is away, or a system that is short of something."""


def from_disk(error: OSError, what: str) -> NanochatError:
    """The error for what the file system said; `what` needed it, as inside a sentence: "the stage `pack`"."""
    where = f" (`{error.filename}`)" if error.filename else ""
    if error.errno in FULL:
        return NoSpace(
            f"No space left for {what}{where}.",
            hint="Free some, or point `NANOCHAT_HOME` and `--store` at a larger disk.",
        )
    said = f"{what[:1].upper()}{what[1:]} cannot use a file: {error.strerror or error}{where}."
    if error.errno in PASSING:
        return DiskFailed(said, hint="Try again; if that does not help, look at the disk.")
    return DiskRefused(said, hint="Check the folder and its permissions, or choose another one.")


def _family(kind: type[NanochatError]) -> list[type[NanochatError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _family(child))]
