"""Rules for stale flow runs, without any access to a server: `stale_runs.py` reads the runs and applies the rules."""

from dataclasses import dataclass
from typing import Any

MAX_CRASHES = 6
"""A crashed run is started again, but not endlessly."""
LOST = "No heartbeat: its worker or machine is gone."


@dataclass(frozen=True)
class Limits:
    """Seconds after which a run is stale."""

    repeat_cancel_s: float = 15.0
    """Time until a cancellation is repeated; it doubles each time."""
    heartbeat_timeout_s: float = 150.0
    """A run sends a heartbeat every 30 s; a busy machine may lose four."""
    never_started_s: float = 45.0
    """For a cancelled run that has not sent any heartbeat."""
    cancel_timeout_s: float = 900.0
    """For a run that sends heartbeats and ignores its cancellation."""
    pending_s: float = 180.0
    """Limit from *Pending* to *Running* if the worker starts a process."""
    pending_infrastructure_s: float = 1800.0
    """The same if a machine or an image may have to be prepared first."""
    crashed_s: float = 3.0
    retry_delay_s: float = 10.0
    """Before the third start; twice as long before each further one."""
    unstartable_s: float = 60.0
    """For a run that is due and has no deployment or queue."""
    wait_s: float = 86_400.0
    """For a worker of its pool, or for a person who resumes it."""


@dataclass(frozen=True)
class RunFacts:
    """The properties of a run that the rules use. Unless noted, durations are measured by the local clock."""

    state: str
    """Type: `RUNNING`, …"""
    unchanged_s: float
    """Time since this state was first read, so that a jump of the server's clock does not look like a long wait."""
    since_heartbeat_s: float = 0.0
    """Time since its newest heartbeat, or else the run, was first read."""
    has_heartbeat: bool = False
    """Whether it has ever sent a heartbeat."""
    cancelling_s: float = 0.0
    """Time since its cancellation was first read."""
    cancel_repeats: int = 0
    """How often the cancellation was repeated."""
    state_age_s: float = 0.0
    """Age of the state by the server's clock."""
    missing: str = ""
    """What the run lacks to start: `deployment`, `work queue`, `worker`. Runs of paused pools lack nothing."""
    on_infrastructure: bool = False
    """Whether its pool starts something other than processes."""
    crashes: int = 0
    """Consecutive crashes; another final state, after which a person retries the run, resets the count."""
    message: str = ""
    """Message of its state."""


@dataclass(frozen=True)
class Transition:
    """The next state of a run."""

    type: str
    name: str
    message: str
    delay_s: float = 0.0


def next_transition(run: RunFacts, limits: Limits) -> Transition | None:
    """Applies the rules: the transition of a stale run, or None."""
    pending_limit_s = limits.pending_infrastructure_s if run.on_infrastructure else limits.pending_s
    match run.state:
        case "RUNNING" if run.since_heartbeat_s > limits.heartbeat_timeout_s:
            return Transition("CRASHED", "Crashed", LOST)
        case "PENDING" if run.unchanged_s > pending_limit_s:
            return Transition("CRASHED", "Crashed", "A worker took it and it never started: the worker is gone.")
        case "CRASHED" if run.unchanged_s > limits.crashed_s and run.missing != "deployment":
            return _after_crash(run, limits)
        case "CANCELLING":
            return _cancelling(run, limits)
        case "SCHEDULED":
            return _scheduled(run, limits)
        case "PAUSED" if run.state_age_s > limits.wait_s and run.unchanged_s > limits.repeat_cancel_s:
            return Transition("CANCELLED", "Cancelled", f"Paused for {_hours(run.state_age_s)} and not resumed.")
        case _:
            return None


def _after_crash(run: RunFacts, limits: Limits) -> Transition:
    if run.crashes >= MAX_CRASHES:
        why = run.message.strip() or "See its log (out of memory?)."
        return Transition("FAILED", "Failed", f"Crashed {run.crashes} times; the last time: {why} Retry restarts it.")
    delay_s = limits.retry_delay_s * 2 ** (run.crashes - 2) if run.crashes > 1 else 0.0
    message = f"It crashed ({run.crashes} of {MAX_CRASHES}) and will resume."
    return Transition("SCHEDULED", "AwaitingRetry", message, delay_s)


def _cancelling(run: RunFacts, limits: Limits) -> Transition | None:
    never_started = not run.has_heartbeat and not run.on_infrastructure and run.cancelling_s > limits.never_started_s
    if run.since_heartbeat_s > limits.heartbeat_timeout_s or never_started:
        return Transition("CANCELLED", "Cancelled", "Cancelled; none of its processes were running any more.")
    if run.cancelling_s > limits.cancel_timeout_s:
        return Transition("CANCELLED", "Cancelled", "Cancelled; its process did not react, and may still run.")
    if run.unchanged_s > limits.repeat_cancel_s * 2**run.cancel_repeats:
        return Transition("CANCELLING", "Cancelling", "Cancellation repeated: the run did not react.")
    return None


def _scheduled(run: RunFacts, limits: Limits) -> Transition | None:
    if run.missing in ("deployment", "work queue") and run.unchanged_s > limits.unstartable_s:
        return Transition("FAILED", "Failed", f"It cannot start: its {run.missing} is gone. `nanochat up` creates it.")
    if run.missing == "worker" and run.state_age_s > limits.wait_s and run.unchanged_s > limits.repeat_cancel_s:
        message = f"No worker has served its pool for {_hours(run.state_age_s)}. Retry waits again."
        return Transition("FAILED", "Failed", message)
    return None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours"


def crashes_in_a_row(states: list[dict[str, Any]]) -> int:
    """How often a run has crashed since it last ended in another state, from its history."""
    count, before = 0, ""
    for state in sorted(states, key=lambda state: state["timestamp"]):
        if state["type"] == "CRASHED" and before != "CRASHED":
            count += 1
        elif state["type"] in ("COMPLETED", "FAILED", "CANCELLED"):
            count = 0
        before = state["type"]
    return count
