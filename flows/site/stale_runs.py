"""Finds stale flow runs and sets their next state: crashed, scheduled again, cancelled, failed.

In Prefect, processes and events change the state of a run. Processes may be killed, and events are lost while the
server is down; states are not lost. So this module reads the states of our runs every few seconds, and changes those
that no process will change any more. `stale_run_rules.py` contains the rules.

The site supervisor runs it as a thread. For a server without a supervisor, this command does the same:

    PREFECT_API_URL=http://server:4200/api python -P -m flows.site.stale_runs
"""

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
from flows.site.client import Api, RequestFailed
from flows.site.prefect_settings import load_settings
from flows.site.server_check import ServerRefuses
from flows.site.stale_run_rules import Limits, RunFacts, Transition, crashes_in_a_row, next_transition
from nanochat import settings
from nanochat.errors import BadConfig, NanochatError
from nanochat.failures import to_nanochat_error

CHECK_INTERVAL_S = 5.0
FLOWS = (
    "nanochat",
    "evaluate",
    "compare",
    "fine-tune",
    "sft-only",
    "experiment",
    "ladder",
    "publish",
    "refresh",
    "stage",
    "verify-store",
    "gc",
)
"""Names of our flows: runs of other flows on the server are left alone."""


@dataclass
class _Observed:
    """The last readings of a run, with their times by the local monotonic clock."""

    state_id: str = ""
    since_s: float = 0.0
    heartbeat: str = ""
    heartbeat_since_s: float = 0.0
    cancelling_since_s: float = 0.0
    cancel_repeats: int = 0
    logged: set[str] = field(default_factory=set)


class StaleRuns:
    """Checks our runs on one server."""

    def __init__(self, api_url: str, **limits: float) -> None:
        self.limits = Limits(**limits)
        self._api = Api(api_url)
        self._observed: dict[str, _Observed] = {}
        self._pools: dict[str, dict[str, Any]] = {}
        self._online: dict[str, bool] = {}

    def check(self) -> list[str]:
        """Sets the next state of each stale run; returns lines for the log, each one once.

        Raises `RequestFailed` when the server does not answer, `ServerRefuses` when it rejects the credentials.
        """
        try:
            runs = self._runs()
            deployments = {each["id"] for each in self._api.all("deployments/filter")} if runs else set()
            self._pools = {each["name"]: each for each in self._api.all("work_pools/filter")} if runs else {}
        except RequestFailed:
            self._observed.clear()  # heartbeats were lost as well: all times restart
            raise
        self._online.clear()
        self._observed = {run["id"]: self._observed.get(run["id"], _Observed()) for run in runs}
        return [line for run in runs for line in self._check_run(run, deployments)]

    def _runs(self) -> list[dict[str, Any]]:
        now = datetime.now(UTC)
        ours = {"name": {"any_": list(FLOWS)}}
        active = ["RUNNING", "PENDING", "CANCELLING", "PAUSED"]
        filters = (
            {"state": {"type": {"any_": active}}},
            {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": now.isoformat()}},
            {
                "state": {"type": {"any_": ["CRASHED"]}},
                "end_time": {"after_": (now - timedelta(days=1)).isoformat()},
                "deployment_id": {"is_null_": False},
            },
        )
        return [run for each in filters for run in self._api.all("flow_runs/filter", flows=ours, flow_runs=each)]

    def _check_run(self, run: dict[str, Any], deployments: set[str]) -> Iterator[str]:
        observed = self._observed[run["id"]]
        try:
            facts = self._facts(run, observed, deployments)
            waits = facts.state == "SCHEDULED" and facts.missing == "worker"
            if waits and facts.unchanged_s > self.limits.repeat_cancel_s:
                yield from _once(observed, f"{run['name']}: waits for a worker of the pool `{run['work_pool_name']}`.")
            transition = next_transition(facts, self.limits)
            if transition is None or not self._set_state(run, transition):
                return
            if transition.type == "CANCELLING":
                observed.cancel_repeats += 1
        except RequestFailed as error:  # of this run; the others are checked all the same
            yield from _once(observed, f"{run['name']}: {error}")
            return
        yield from _once(observed, f"{run['name']}: {transition.name}. {transition.message}")

    def _facts(self, run: dict[str, Any], observed: _Observed, deployments: set[str]) -> RunFacts:
        now, kind = time.monotonic(), run["state_type"]
        if observed.state_id != run["state_id"]:
            observed.state_id, observed.since_s = run["state_id"], now
        if kind != "CANCELLING":
            observed.cancelling_since_s, observed.cancel_repeats = 0.0, 0
        else:
            observed.cancelling_since_s = observed.cancelling_since_s or now
        if kind in ("RUNNING", "CANCELLING"):
            heartbeat = self._newest_heartbeat(run)
            if observed.heartbeat_since_s == 0.0 or observed.heartbeat != heartbeat:
                observed.heartbeat, observed.heartbeat_since_s = heartbeat, now
        missing = self._missing(run, deployments) if kind in ("SCHEDULED", "CRASHED") else ""
        pool = self._pools.get(run["work_pool_name"] or "", {})
        return RunFacts(
            state=kind,
            unchanged_s=now - observed.since_s,
            since_heartbeat_s=now - max(observed.heartbeat_since_s, observed.since_s if kind == "RUNNING" else 0.0),
            has_heartbeat=bool(observed.heartbeat),
            cancelling_s=now - (observed.cancelling_since_s or now),
            cancel_repeats=observed.cancel_repeats,
            state_age_s=_age_s(run["state"]["timestamp"]),
            missing=missing,
            on_infrastructure=bool(pool) and pool["type"] != "process",
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

    def _newest_heartbeat(self, run: dict[str, Any]) -> str:
        """The id of its newest heartbeat event; empty before the first."""
        heartbeats = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
        }
        events = self._api.post("events/filter", filter={**heartbeats, "order": "DESC"}, limit=1)["events"]
        return events[0]["id"] if events else ""

    def _set_state(self, run: dict[str, Any], transition: Transition) -> bool:
        """Sets the state unless the run has changed since it was read; returns whether it was set."""
        if self._api.get(f"flow_runs/{run['id']}")["state_id"] != run["state_id"]:
            return False
        state: dict[str, Any] = {"type": transition.type, "name": transition.name, "message": transition.message}
        if transition.delay_s:
            later = datetime.now(UTC) + timedelta(seconds=transition.delay_s)
            state["state_details"] = {"scheduled_time": later.isoformat()}
        self._api.post(f"flow_runs/{run['id']}/set_state", state=state, force=True)
        return True


def _once(observed: _Observed, line: str) -> Iterator[str]:
    if line not in observed.logged:
        observed.logged.add(line)
        yield line


def _age_s(timestamp: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()


def watch_runs(api_url: str, ending: threading.Event, log: Callable[[str], None]) -> None:
    """Checks every few seconds until the event is set; logs a continued problem with the server once."""
    stale_runs = StaleRuns(api_url)
    problem = ""
    while not ending.wait(CHECK_INTERVAL_S):
        try:
            for line in stale_runs.check():
                log(line)
            problem = ""
        except (RequestFailed, ServerRefuses) as error:
            kind = type(error).__name__
            if kind != problem:
                log(str(error))
            problem = kind
        except Exception as error:  # noqa: BLE001 - must go on: no other process checks the runs
            if repr(error) != problem:
                log(str(to_nanochat_error(error, "the check for stale runs")))
            problem = repr(error)


def main() -> None:
    """Checks the runs of a server that has no site supervisor, until a signal."""
    settings.settle()
    ending = threading.Event()
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    try:
        api_url = prefect_environment.api_url()
        if not api_url:
            raise BadConfig("`PREFECT_API_URL` is not set.", hint="It names the server: `http://server:4200/api`.")
        prefect_environment.configure_client(api_url, settings.home() / "prefect")
        load_settings()
        watch_runs(api_url, ending, lambda line: print(line, flush=True))  # noqa: T201 - the log of this process
    except NanochatError as error:
        sys.exit(f"error: {error}")
    sys.exit(128 + received[0])


if __name__ == "__main__":
    main()
