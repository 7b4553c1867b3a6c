"""The result of judging a generated answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and if it is not, why."""

    right: bool
    """By the task's own rule, as other programs apply it."""
    flexible: bool | None = None
    """By a more lenient rule, if the task has one: it accepts more spellings of the same answer."""
    reason: str = ""
    """Why there is nothing to judge: `no answer`, `no code`, `time limit`; empty: the answer was judged."""

    @property
    def name(self) -> str:
        """`right`, `wrong`, or the reason."""
        return "right" if self.right else self.reason or "wrong"
