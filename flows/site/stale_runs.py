"""What should have happened to a flow run by now and has not: the keeper looks, and does it.

Prefect moves a run when a process or an event does so. Processes are killed, and events are lost while the server is
away; states are not lost. So the keeper reads the states of our runs every few seconds, and no run stays for ever in a
state that nothing is left to change: `stale_run_rules.py` has the rules.

For a server without a keeper, one process beside it does the same:

    PREFECT_API_URL=http://server:4200/api python -P -m flows.site.stale_runs
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

from flows.site import prefect_environment
from flows.site.client import Api, Unanswered, load
from flows.site.server_check import ServerRefuses
from flows.site.stale_run_rules import Known, Limits, Step, crashes_in_a_row, decide
from nanochat import settings
from nanochat.errors import BadConfig, NanochatError
from nanochat.failures import to_nanochat_error

LOOK_EVERY_S = 5.0
FLOWS = ("nanochat", "evaluate", "sft-only", "ladder", "refresh", "stage", "verify-store", "gc")
"""Names of our flows: a server may have runs of other people, and those are left alone."""


@dataclass
class _Watched:
    """What we have seen of a run, and when, by our own clock."""

    state_id: str = ""
    since_s: float = 0.0
    beat: str = ""
    beat_since_s: float = 0.0
    cancelling_since_s: float = 0.0
    repeated: int = 0
    told: set[str] = field(default_factory=set)


class Overdue:
    """Looks at our runs on one server."""

    def __init__(self, api_url: str, **limits: float) -> None:
        self.limits = Limits(**limits)
        self._api = Api(api_url)
        self._watched: dict[str, _Watched] = {}
        self._pools: dict[str, dict[str, Any]] = {}
        self._online: dict[str, bool] = {}

    def look(self) -> list[str]:
        """Does what is overdue, and tells it, each thing once.

        Raises `Unanswered` when the server does not answer, `ServerRefuses` when it does not let us in.
        """
        try:
            runs = self._runs()
            deployments = {each["id"] for each in self._api.all("deployments/filter")} if runs else set()
            self._pools = {each["name"]: each for each in self._api.all("work_pools/filter")} if runs else {}
        except Unanswered:
            self._watched.clear()  # signs of life were lost too: count again
            raise
        self._online.clear()
        self._watched = {run["id"]: self._watched.get(run["id"], _Watched()) for run in runs}
        return [line for run in runs for line in self._mend(run, deployments)]

    def _runs(self) -> list[dict[str, Any]]:
        now = datetime.now(UTC)
        ours = {"name": {"any_": list(FLOWS)}}
        busy = ["RUNNING", "PENDING", "CANCELLING", "PAUSED"]
        wanted = (
            {"state": {"type": {"any_": busy}}},
            {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": now.isoformat()}},
            {
                "state": {"type": {"any_": ["CRASHED"]}},
                "end_time": {"after_": (now - timedelta(days=1)).isoformat()},
                "deployment_id": {"is_null_": False},
            },
        )
        return [run for which in wanted for run in self._api.all("flow_runs/filter", flows=ours, flow_runs=which)]

    def _mend(self, run: dict[str, Any], deployments: set[str]) -> Iterator[str]:
        watched = self._watched[run["id"]]
        try:
            known = self._known(run, watched, deployments)
            if known.state == "SCHEDULED" and known.missing == "worker" and known.unchanged_s > self.limits.unheard_s:
                yield from _once(watched, f"{run['name']}: waits for a worker of the pool `{run['work_pool_name']}`.")
            step = decide(known, self.limits)
            if step is None or not self._set(run, step):
                return
            if step.type == "CANCELLING":
                watched.repeated += 1
        except Unanswered as error:  # this run; the others may be mended all the same
            yield from _once(watched, f"{run['name']}: {error}")
            return
        yield from _once(watched, f"{run['name']}: {step.name}. {step.message}")

    def _known(self, run: dict[str, Any], watched: _Watched, deployments: set[str]) -> Known:
        now, kind = time.monotonic(), run["state_type"]
        if watched.state_id != run["state_id"]:
            watched.state_id, watched.since_s = run["state_id"], now
        if kind != "CANCELLING":
            watched.cancelling_since_s, watched.repeated = 0.0, 0
        else:
            watched.cancelling_since_s = watched.cancelling_since_s or now
        if kind in ("RUNNING", "CANCELLING"):
            beat = self._heartbeat(run)
            if watched.beat_since_s == 0.0 or watched.beat != beat:
                watched.beat, watched.beat_since_s = beat, now
        missing = self._missing(run, deployments) if kind in ("SCHEDULED", "CRASHED") else ""
        pool = self._pools.get(run["work_pool_name"] or "", {})
        return Known(
            state=kind,
            unchanged_s=now - watched.since_s,
            silent_s=now - max(watched.beat_since_s, watched.since_s if kind == "RUNNING" else 0.0),
            beaten=bool(watched.beat),
            cancelling_s=now - (watched.cancelling_since_s or now),
            repeated=watched.repeated,
            aged_s=_age_s(run["state"]["timestamp"]),
            missing=missing,
            elsewhere=bool(pool) and pool["type"] != "process",
            crashes=self._crashes(run) if kind == "CRASHED" else 0,
            message=run["state"]["message"] or "",
        )

    def _missing(self, run: dict[str, Any], deployments: set[str]) -> str:
        if run["deployment_id"] not in deployments:
            return "deployment"
        pool = run["work_pool_name"]
        if pool not in self._pools:
            return "work queue"
        if pool not in self._online:
            workers = self._api.post(f"work_pools/{pool}/workers/filter")
            self._online[pool] = self._pools[pool]["is_paused"] or any(each["status"] == "ONLINE" for each in workers)
        return "" if self._online[pool] else "worker"

    def _crashes(self, run: dict[str, Any]) -> int:
        return crashes_in_a_row(self._api.get(f"flow_run_states/?flow_run_id={run['id']}"))

    def _heartbeat(self, run: dict[str, Any]) -> str:
        """The id of its newest sign of life; empty before the first."""
        beats = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
        }
        events = self._api.post("events/filter", filter={**beats, "order": "DESC"}, limit=1)["events"]
        return events[0]["id"] if events else ""

    def _set(self, run: dict[str, Any], step: Step) -> bool:
        """Whether the run was still as we saw it, and is in another state now."""
        if self._api.get(f"flow_runs/{run['id']}")["state_id"] != run["state_id"]:
            return False
        state: dict[str, Any] = {"type": step.type, "name": step.name, "message": step.message}
        if step.delay_s:
            later = datetime.now(UTC) + timedelta(seconds=step.delay_s)
            state["state_details"] = {"scheduled_time": later.isoformat()}
        self._api.post(f"flow_runs/{run['id']}/set_state", state=state, force=True)
        return True


def _once(watched: _Watched, line: str) -> Iterator[str]:
    if line not in watched.told:
        watched.told.add(line)
        yield line


def _age_s(timestamp: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()


def watch(api_url: str, ending: threading.Event, say: Callable[[str], None]) -> None:
    """Looks every few seconds, until the event is set; that the server does not answer is said once, until it does."""
    overdue = Overdue(api_url)
    trouble = ""
    while not ending.wait(LOOK_EVERY_S):
        try:
            for said in overdue.look():
                say(said)
            trouble = ""
        except (Unanswered, ServerRefuses) as error:
            kind = type(error).__name__
            if kind != trouble:
                say(str(error))
            trouble = kind
        except Exception as error:  # noqa: BLE001 - whatever it is: nobody else looks after the other runs
            if repr(error) != trouble:
                say(str(to_nanochat_error(error, "the look at what is overdue")))
            trouble = repr(error)


def main() -> None:
    """For a server that others run: until it is told to end."""
    settings.settle()
    ending = threading.Event()
    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        told.append(number)
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    try:
        api_url = prefect_environment.api_url()
        if not api_url:
            raise BadConfig("`PREFECT_API_URL` is not set.", hint="It names the server: `http://server:4200/api`.")
        prefect_environment.configure_client(api_url, settings.home() / "prefect")
        load()
        watch(api_url, ending, _say)
    except NanochatError as error:
        sys.exit(f"error: {error}")
    sys.exit(128 + told[0])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
