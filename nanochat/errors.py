"""All errors that users can get: each is a sentence with a hint."""


class NanochatError(Exception):
    """A failure that a person can fix.

    `message` describes the problem in one sentence, with the field, file or address; `hint` describes the fix.
    A stage with a `transient` error is tried again.
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
    """A signal ended this process. Not an `Exception`, so that no handler catches it before the exit code is set."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class BadConfig(NanochatError):
    """An invalid setting: an unknown field, a wrong type, a value out of range, sizes that do not divide."""


class BadSource(NanochatError):
    """Unreadable raw data: missing, empty, truncated, without the text column, not UTF-8."""


class SourceUnreachable(NanochatError):
    """The network or the server of a source failed; trying again may help."""

    transient = True

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        """The delay that the server requested."""


class DamagedTransfer(SourceUnreachable):
    """The received bytes do not match the size or checksum of the source."""


class StoreError(NanochatError):
    """The store cannot be used: bad address, bad credentials, no create-only writes."""


class StoreUnreachable(StoreError):
    """The store did not answer; trying again may help."""

    transient = True


class DamagedResponse(StoreUnreachable):
    """The received bytes do not match the checksum of the store."""


class NoSpace(NanochatError):
    """No space left on a disk."""


class SystemRefused(NanochatError):
    """The system refused a call: no permission, a read-only disk, a file where a folder is needed."""


class SystemFailed(NanochatError):
    """The file system failed, or a resource was exhausted; trying again may help."""

    transient = True


class NotEnoughMemory(NanochatError):
    """The model or batch does not fit the memory of the device."""


class NotFound(NanochatError):
    """There is no such artifact, alias or profile."""


class DamagedArtifact(NanochatError):
    """An object in the store does not match its manifest, or cannot be parsed."""


class NewerFormat(NanochatError):
    """A record in the store that a newer version wrote."""


class NoSuchToken(NanochatError, KeyError):
    """An id or a special token that the vocabulary does not have."""


class WrongKind(NanochatError):
    """A stage received an artifact of a kind that it does not accept."""


class NotComparable(NanochatError):
    """Evaluations with other questions, prompts or rules, whose answers cannot be compared one by one."""


class Diverged(NanochatError):
    """Training produced NaN, or the loss exploded."""


class BadReward(NanochatError):
    """A reward of reinforcement learning that raised an error, was not a finite number, or took too long."""


class StageFailed(NanochatError):
    """A child process ended without a result."""


class Hung(StageFailed):
    """A rank made no progress; the same run resumes from the last checkpoint."""

    transient = True


class Preempted(StageFailed):
    """Training was stopped, and saved a checkpoint: the same run resumes from there."""

    transient = True


class SandboxFailed(NanochatError):
    """The sandbox for generated programs does not work, or not as strongly as required: no program was judged."""


class Stopped(NanochatError):
    """A stage that ended because a stop of its run was requested."""


class Unexpected(NanochatError):
    """An error without a sentence of its own; the hint names the file with its traceback (`failures.py`)."""


def from_json(error: dict[str, str]) -> NanochatError:
    """The error of a child process, written with `to_json`; an unknown type becomes `StageFailed`."""
    kinds = {kind.__name__: kind for kind in _family(NanochatError)}
    return kinds.get(error.get("type", ""), StageFailed)(
        error.get("message", "unknown error"), hint=error.get("hint", "")
    )


def _family(kind: type[NanochatError]) -> list[type[NanochatError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _family(child))]
