"""What should have happened on the server by now and has not: the keeper looks, and does it.

Prefect's automations and cancellations hang on single events. An event is lost while the server is away, and what it
was to cause is lost when the database is busy; states are not lost. So the keeper reads the states of the runs of
deployments every few seconds, and

- says *Cancelling* again when nobody has heard it;
- starts a crashed run again when the automation has not;
- marks a run as *Crashed* that says it is running and has shown no sign of life, also one from before a reboot.

For a server without a keeper, one process beside it does the same:

    PREFECT_API_URL=http://server:4200/api python -m flows.overdue
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from nanochat import settings

LOOK_EVERY_S = 10.0
DEAD_AFTER = timedelta(seconds=150)
"""A run shows that it lives every 30 seconds; four beats may be lost: a busy machine is no dead one."""


def ask(api_url: str, path: str, **body: Any) -> Any:
    """What Prefect's API answers to a POST; raises `OSError` when it does not."""
    request = urllib.request.Request(  # noqa: S310 - http
        f"{api_url}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - http
        return json.load(answer)


@dataclass
class Overdue:
    """Looks at the runs of one server's deployments."""

    api_url: str
    unheard_s: float = 15.0
    crashed_s: float = 20.0
    dead_s: float = DEAD_AFTER.total_seconds()
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Run → what it was seen to be, and since when, by our own clock: no jump of a clock looks like a long wait."""

    def look(self) -> list[str]:
        """Does what is overdue, and tells it; raises `OSError` when the server does not answer."""
        try:
            runs = self._runs()
            self._seen = {run["id"]: self._seen[run["id"]] for run in runs if run["id"] in self._seen}
            return [said for run in runs if (said := self._mend(run))]
        except OSError:
            self._seen.clear()  # signs of life were lost too: count again
            raise

    def _runs(self) -> list[dict[str, Any]]:
        yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        of_deployments = {"deployment_id": {"is_null_": False}}
        busy = {**of_deployments, "state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}
        crashed = {**of_deployments, "state": {"type": {"any_": ["CRASHED"]}}, "end_time": {"after_": yesterday}}
        return [run for which in (busy, crashed) for run in ask(self.api_url, "flow_runs/filter", flow_runs=which)]

    def _mend(self, run: dict[str, Any]) -> str:
        match run["state_type"]:
            case "CANCELLING" if self._unchanged_s(run) > self.unheard_s:
                return self._set(run, "CANCELLING", "Cancelling", "Said again: nobody had heard it.")
            case "CRASHED" if self._unchanged_s(run) > self.crashed_s:
                return self._set(run, "SCHEDULED", "AwaitingRetry", "It crashed; it goes on where it was.")
            case "RUNNING" if self._unchanged_s(run, self._heartbeat(run)) > self.dead_s:
                return self._set(run, "CRASHED", "Crashed", "No sign of life: its worker or machine is gone.")
            case _:
                return ""

    def _unchanged_s(self, run: dict[str, Any], sign_of_life: str = "") -> float:
        """For how long we have seen this state, and this sign of life."""
        now, seen = time.monotonic(), f"{run['state_id']} {sign_of_life}"
        before, since = self._seen.get(run["id"], ("", now))
        if before != seen:
            self._seen[run["id"]] = seen, now
            return 0.0
        return now - since

    def _heartbeat(self, run: dict[str, Any]) -> str:
        """The id of its newest sign of life; empty before the first."""
        beats = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
        }
        events = ask(self.api_url, "events/filter", filter={**beats, "order": "DESC"}, limit=1)["events"]
        return events[0]["id"] if events else ""

    def _set(self, run: dict[str, Any], kind: str, name: str, message: str) -> str:
        state = {"type": kind, "name": name, "message": message}
        ask(self.api_url, f"flow_runs/{run['id']}/set_state", state=state, force=True)
        return f"{run['name']}: {name}. {message}"


def watch(api_url: str, ending: threading.Event, say: Callable[[str], None]) -> None:
    """Looks every few seconds, until the event is set."""
    overdue = Overdue(api_url)
    while not ending.wait(LOOK_EVERY_S):
        with contextlib.suppress(OSError):  # the server is away; it comes back
            for said in overdue.look():
                say(said)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    watch(settings.prefect_api_url(), threading.Event(), _say)
