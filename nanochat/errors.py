"""Every error a user can meet, each a sentence with its way out."""

from __future__ import annotations


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


class DamagedResponse(StoreUnreachable):
    """The bytes that came from the store are not those that it promises."""


class NoSpace(NanochatError):
    """No space left on a disk."""


class SystemRefused(NanochatError):
    """The file system or the kernel refused: no right, a read-only disk, a file where a folder is needed."""


class SystemFailed(NanochatError):
    """The file system failed, or the system was short of something; trying again may help."""

    transient = True


class NotEnoughMemory(NanochatError):
    """The model or batch does not fit the memory of the device."""


class NotFound(NanochatError):
    """An artifact, alias or profile that the store or the program does not have."""


class DamagedArtifact(NanochatError):
    """Bytes in the store differ from what the manifest says."""


class NewerFormat(NanochatError):
    """A record in the store that a newer version wrote."""


class NoSuchToken(NanochatError, KeyError):
    """An id or a special token that the vocabulary does not have."""


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


class Stopped(NanochatError):
    """A stage that ended because a stop of its run was requested."""


class Unexpected(NanochatError):
    """An error without a sentence of its own; the hint names the file with its traceback (`failures.py`)."""


def from_json(error: dict[str, str]) -> NanochatError:
    """The error that a child process wrote with `to_json`; an unknown type becomes `StageFailed`."""
    kinds = {kind.__name__: kind for kind in _family(NanochatError)}
    return kinds.get(error.get("type", ""), StageFailed)(
        error.get("message", "unknown error"), hint=error.get("hint", "")
    )


def _family(kind: type[NanochatError]) -> list[type[NanochatError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _family(child))]
