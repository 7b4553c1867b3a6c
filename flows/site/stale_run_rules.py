"""Rules for stale flow runs, without any access to a server. `stale_runs.py` reads the runs and applies the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MOST_CRASHES = 6
"""A run that crashes is started again, but not for ever."""
LOST = "No sign of life: its worker or machine is gone."


@dataclass(frozen=True)
class Limits:
    """After how many seconds something is overdue."""

    unheard_s: float = 15.0
    """A cancellation is repeated; then after twice as long, and so on."""
    dead_s: float = 150.0
    """A run shows that it lives every 30 seconds; four beats may be lost: a busy machine is no dead one."""
    never_began_s: float = 45.0
    """Of a run that is cancelled and has shown no sign of life at all."""
    deaf_s: float = 900.0
    """Of a run that lives and does not hear its cancellation."""
    pending_s: float = 180.0
    """From being taken by a worker to running, where the worker starts a process."""
    pending_elsewhere_s: float = 1800.0
    """The same where a machine or an image may have to come first."""
    crashed_s: float = 3.0
    retry_s: float = 10.0
    """Before the third start; twice as long before each further one."""
    unstartable_s: float = 60.0
    """Of a run that is due and has no deployment or queue."""
    waiting_s: float = 86_400.0
    """For a worker of its pool, or for a person who resumes it."""


@dataclass(frozen=True)
class Known:
    """What is known of a run."""

    state: str
    """Type: `RUNNING`, …"""
    unchanged_s: float
    """Since we have seen this state, by our clock: no jump of a clock looks like a long wait."""
    silent_s: float = 0.0
    """Since we have seen its newest sign of life, or since we look."""
    beaten: bool = False
    """Whether it has ever shown a sign of life."""
    cancelling_s: float = 0.0
    """Since we have seen that it is to be cancelled."""
    repeated: int = 0
    """How often the cancellation was repeated."""
    aged_s: float = 0.0
    """Since the server wrote the state."""
    missing: str = ""
    """What it cannot be started without, and lacks: `deployment`, `work queue`, `worker`; paused pools lack nothing."""
    elsewhere: bool = False
    """Whether its pool starts something else than processes."""
    crashes: int = 0
    """In a row: a run that ended in another way, and was started again by a person, begins to count anew."""
    message: str = ""
    """Of its state."""


@dataclass(frozen=True)
class Step:
    """A state that a run is put into."""

    type: str
    name: str
    message: str
    delay_s: float = 0.0


def decide(run: Known, limits: Limits) -> Step | None:
    """What is overdue for a run; the whole of the rules."""
    match run.state:
        case "RUNNING" if run.silent_s > limits.dead_s:
            return Step("CRASHED", "Crashed", LOST)
        case "PENDING" if run.unchanged_s > (limits.pending_elsewhere_s if run.elsewhere else limits.pending_s):
            return Step("CRASHED", "Crashed", "It was taken by a worker and never began: the worker is gone.")
        case "CRASHED" if run.unchanged_s > limits.crashed_s and run.missing != "deployment":
            return _after_crash(run, limits)
        case "CANCELLING":
            return _cancelling(run, limits)
        case "SCHEDULED":
            return _scheduled(run, limits)
        case "PAUSED" if run.aged_s > limits.waiting_s and run.unchanged_s > limits.unheard_s:
            return Step("CANCELLED", "Cancelled", f"Paused for {_hours(run.aged_s)}, and nobody resumed it.")
        case _:
            return None


def _after_crash(run: Known, limits: Limits) -> Step:
    if run.crashes >= MOST_CRASHES:
        why = run.message.strip() or "Its log may say why (out of memory?)."
        return Step("FAILED", "Failed", f"Crashed {run.crashes} times; the last time: {why} Retry starts it again.")
    delay_s = limits.retry_s * 2 ** (run.crashes - 2) if run.crashes > 1 else 0.0
    said = f"It crashed ({run.crashes} of {MOST_CRASHES}); it goes on where it was."
    return Step("SCHEDULED", "AwaitingRetry", said, delay_s)


def _cancelling(run: Known, limits: Limits) -> Step | None:
    never_began = not run.beaten and not run.elsewhere and run.cancelling_s > limits.never_began_s
    if run.silent_s > limits.dead_s or never_began:
        return Step("CANCELLED", "Cancelled", "Cancelled; nothing of it was running any more.")
    if run.cancelling_s > limits.deaf_s:
        return Step("CANCELLED", "Cancelled", "Cancelled; its process did not end when told to, and may still run.")
    if run.unchanged_s > limits.unheard_s * 2**run.repeated:
        return Step("CANCELLING", "Cancelling", "Said again: nobody had heard it.")
    return None


def _scheduled(run: Known, limits: Limits) -> Step | None:
    if run.missing in ("deployment", "work queue") and run.unchanged_s > limits.unstartable_s:
        return Step("FAILED", "Failed", f"Nothing can start it: its {run.missing} is gone. `nanochat up` makes it.")
    if run.missing == "worker" and run.aged_s > limits.waiting_s and run.unchanged_s > limits.unheard_s:
        return Step("FAILED", "Failed", f"No worker has served its pool for {_hours(run.aged_s)}. Retry waits again.")
    return None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours"


def crashes_in_a_row(states: list[dict[str, Any]]) -> int:
    """From a run's history: how often it has crashed since it last ended in another way."""
    count, before = 0, ""
    for state in sorted(states, key=lambda state: state["timestamp"]):
        if state["type"] == "CRASHED" and before != "CRASHED":
            count += 1
        elif state["type"] in ("COMPLETED", "FAILED", "CANCELLED"):
            count = 0
        before = state["type"]
    return count
