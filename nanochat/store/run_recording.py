"""Records an active run: an event sink that writes the run's record (`runs.py`) with every heartbeat.

`deletion.py` relies on the field `holds`: the store of a run notes a key *before* it looks it up, and each heartbeat
writes all that was noted. So everything that a run found before a moment is in the second record written after it.
"""

import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from nanochat.errors import NanochatError
from nanochat.events import Event
from nanochat.store.runs import RunRecord, RunState, StageRecord, record_path
from nanochat.store.store import Store

HEARTBEAT_S = 5.0
END_PAUSES_S = (0.5, 1.0, 2.0, 0.0)
"""Pauses between attempts to record the end of a run. Without it the run looks lost, and `gc` spares its artifacts for
hours."""
LOGIN = re.compile(r"(?<=://)[^/\s@]*@")
SIGNATURE = re.compile(r"(?i)((?:token|signature|sig|credential|secret|password|api_?key)=)[^&\s`]*")
STAGE_STATES: Mapping[str, Literal["running", "computed", "failed"]] = {
    "started": "running", "finished": "computed", "failed": "failed",
}  # fmt: skip
"""Kind of an event → state of the node from then on."""

LOG = logging.getLogger(__name__)


class RunRecorder:
    """An event sink that records a run. Threads may share it."""

    def __init__(self, store: Store, profile: str, config: Mapping[str, Any], flow_run: str) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._started_s = time.monotonic()
        self._stages: dict[str, StageRecord] = {}
        started = datetime.now(UTC)
        self.record = RunRecord(
            id=f"{started:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", profile=profile, config=without_secrets(config),
            flow_run=flow_run, state="running", started=started, seconds=0.0, beat=0, stages={}, holds=[],
        )  # fmt: skip

    def __call__(self, event: Event) -> None:
        if event.kind not in STAGE_STATES:
            return
        state = "reused" if event.cached else STAGE_STATES[event.kind]
        with self._lock:
            self._stages[event.label] = StageRecord(
                stage=event.stage, state=state, key=event.key, seconds=round(event.seconds, 3)
            )
            if isinstance(score := event.metrics.get("centered_accuracy"), int | float):
                self.record = self.record.model_copy(update={"chat_score": score})

    def write(self, **changes: Any) -> None:
        """Writes the record; raises a `StoreError`."""
        with self._lock:
            requested = self._store.requested.copy()
            holds = [] if "state" in changes else sorted(f"{stage}/{key}" for stage, key in requested)
            self.record = self.record.model_copy(
                update={
                    "beat": self.record.beat + 1,
                    "seconds": round(time.monotonic() - self._started_s, 3),
                    "stages": dict(self._stages),
                    "holds": holds,
                    **changes,
                }
            )
            data = self.record.model_dump_json().encode()
        self._store.objects.write(record_path(self.record.id), data)

    def end(self, state: RunState, error: str = "") -> None:
        """Records the end; stages that still ran are recorded as stopped.

        A store that fails does not fail the run: after some attempts a warning is logged, the record stays as it was,
        and the run will look lost.
        """
        with self._lock:
            for label, each in self._stages.items():
                if each.state == "running":
                    self._stages[label] = each.model_copy(update={"state": "stopped"})
        for pause_s in END_PAUSES_S:
            try:
                self.write(state=state, error=without_secrets(error))
            except (NanochatError, OSError) as failure:
                if pause_s and getattr(failure, "transient", False):
                    time.sleep(pause_s)
                    continue
                LOG.warning("The run %s is %s, but that could not be recorded: %s", self.record.id, state, failure)
            return


@contextlib.contextmanager
def record_run(
    store: Store,
    profile: str,
    config: Mapping[str, Any],
    *,
    flow_run: str = "",
    stopped_by: tuple[type[BaseException], ...] = (),
) -> Generator[RunRecorder]:
    """Records a run from its start, before its first access to the store, to its end.

    The errors `stopped_by` mean that a person stopped the run, as Ctrl-C does. A killed process looks lost.
    """
    recorder = RunRecorder(store, profile, config, flow_run)
    try:
        recorder.write()
    except NanochatError as error:
        with contextlib.suppress(NanochatError):  # the write may have succeeded, and only the response be lost
            recorder.write(state="failed", error=without_secrets(str(error)))
        raise
    done = threading.Event()

    def heartbeat() -> None:
        while not done.wait(HEARTBEAT_S):
            with contextlib.suppress(NanochatError, OSError):  # the store is away or full: the next one may succeed
                recorder.write()

    thread = threading.Thread(target=heartbeat, name=f"run-{recorder.record.id}", daemon=True)
    thread.start()
    state, message = "completed", ""
    try:
        yield recorder
    except BaseException as error:
        cancelled = isinstance(error, stopped_by) or not isinstance(error, Exception)
        state = "cancelled" if cancelled else "failed"
        message = str(error) if isinstance(error, NanochatError) else "" if cancelled else f"It failed: {error!r}."
        raise
    finally:
        done.set()
        thread.join()
        recorder.end(state, message)


def without_secrets(value: Any) -> Any:
    """The value without logins and signatures in URLs, and with `~` for the home folder."""
    if isinstance(value, str):
        shown = SIGNATURE.sub(r"\1…", LOGIN.sub("", value))
        home = str(Path.home())
        return shown.replace(home, "~") if len(home) > 1 else shown
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        return {name: without_secrets(each) for name, each in fields.items()}
    return [without_secrets(each) for each in cast("list[Any]", value)] if isinstance(value, list | tuple) else value
