"""A flow run in this process, drawn in the terminal and shown in the Prefect UI.

The flow has a thread of its own, so that Ctrl-C is ours: the stages are told to stop, the run is marked *Cancelled*,
and nothing of Prefect's is torn down under way. A run that is cancelled in the UI ends in the same way.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled

from flows.pipeline import nanochat_flow
from flows.tasks import WATCH, Stopped
from nanochat.console import Screen, duration
from nanochat.errors import NanochatError, StageFailed, Terminated
from nanochat.execution.stage import Stage
from nanochat.progress import Progress
from nanochat.store.artifacts import Artifact

ASK_EVERY_S = 2.0
BEAT_EVERY_S = 30.0
PATIENCE_S = 20.0
LOG_BYTES = 5_000_000


class TerminalWatch:
    """Draws the run, and stops it when told to."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.artifacts: dict[str, Artifact] = {}
        self.run_id = ""
        self._reason = ""

    def stop(self, reason: str) -> None:
        """From now on each stage that starts, or says how far it is, hears that it has to end."""
        self._reason = self._reason or reason

    def began(self, run_id: str, url: str) -> None:
        self.run_id = run_id
        self.screen.say(f"run     {url}\n")

    def started(self, label: str, stage: Stage) -> Progress:
        self._check()
        self.screen.started(label)

        def progress(
            done: float, total: float, unit: str, message: str = "", metrics: Mapping[str, float] | None = None
        ) -> None:
            self._check()
            self.screen.progress(label, done, total, unit, message)

        return progress

    def ended(self, label: str, artifact: Artifact, seconds: float) -> None:
        self.artifacts[label] = artifact
        self.screen.ended(label, cached=artifact.reused, key=artifact.key, metrics=artifact.metrics)

    def failed(self, label: str, error: NanochatError) -> None:
        self.screen.stage_failed(label)

    def _check(self) -> None:
        if self._reason:
            raise Stopped(self._reason)


class _FlowThread(threading.Thread):
    def __init__(self, parameters: dict[str, Any], watch: TerminalWatch) -> None:
        super().__init__(daemon=True, name="flow")
        self.parameters, self.watch = parameters, watch
        self.state: State[Any] | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()  # a `join` that Ctrl-C interrupts calls the thread dead (bpo-45274)

    def run(self) -> None:
        WATCH.set(self.watch)
        try:
            # Prefect's heart sleeps for a second at a time, and its flow ends no sooner: `_beat` is ours.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                self.state = nanochat_flow(**self.parameters, return_state=True)
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            self.error = error
        self.done.set()


def run_flow(parameters: dict[str, Any], screen: Screen, folder: Path) -> int:
    """Runs the flow and draws it; see `run.run_with_prefect`."""
    began = time.monotonic()
    log = _keep_log(folder)
    watch = TerminalWatch(screen)
    thread = _FlowThread(parameters, watch)
    thread.start()
    threading.Thread(target=_beat, args=[thread, watch], daemon=True, name="heart").start()
    interrupted = _attend(thread, watch)
    _drain()
    if interrupted is not None:
        raise interrupted
    _expect_success(thread, log)
    screen.say(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - began)}.")
    screen.say(f"report  {watch.artifacts['report'].path / 'report.html'}")
    screen.say('chat    nanochat chat -p "Hello!"')
    return 0


def _attend(thread: _FlowThread, watch: TerminalWatch) -> KeyboardInterrupt | Terminated | None:
    """Waits for the flow's end; the Ctrl-C or signal that brought it about."""
    asked = time.monotonic()
    with ExitStack() as stack:
        client = None  # one for all questions: to load its certificates takes longer than to ask
        try:
            while not thread.done.wait(0.1):
                if time.monotonic() - asked > ASK_EVERY_S and watch.run_id:
                    asked = time.monotonic()
                    client = client or stack.enter_context(get_client(sync_client=True))
                    if _is_cancelled(client, watch.run_id):
                        watch.stop("The run was cancelled in the Prefect UI.")
            return None
        except (KeyboardInterrupt, Terminated) as stop:
            _stop(thread, watch, stop)
            return stop


def _beat(thread: _FlowThread, watch: TerminalWatch) -> None:
    """Says what Prefect's own heart would say; beside `_attend`, whose questions a busy server may hold up."""
    wait_s = 0.1
    while not thread.done.wait(wait_s):
        if watch.run_id:
            emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{watch.run_id}"})
            wait_s = BEAT_EVERY_S


def _stop(thread: _FlowThread, watch: TerminalWatch, stop: KeyboardInterrupt | Terminated) -> None:
    """Ends the stages; one that does not listen in time, or a second Ctrl-C, ends the process at once.

    Training ends with us in any case, by its supervisor, and so does our server.
    """
    by = signal.Signals(stop.number).name if isinstance(stop, Terminated) else "Ctrl-C"
    try:
        watch.stop(f"Stopped by {by}.")
        watch.screen.say("Stopping …")
        if not thread.done.wait(PATIENCE_S):
            _mark_cancelled(watch.run_id, f"Stopped by {by}.")
    except KeyboardInterrupt:
        watch.screen.say("Stopped at once.")
    if not thread.done.is_set():
        os._exit(128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT))


def _is_cancelled(client: SyncPrefectClient, run_id: str) -> bool:
    try:
        state = client.read_flow_run(UUID(run_id)).state
    except httpx.HTTPError:
        return False  # the run itself notices when the server has gone
    return state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING)


def _mark_cancelled(run_id: str, message: str) -> None:
    if run_id:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(run_id), Cancelled(message=message), force=True)


def _expect_success(thread: _FlowThread, log: Path) -> None:
    error: Any = thread.error
    if thread.state is not None:
        if thread.state.is_completed():
            return
        if thread.state.is_cancelled():
            raise Stopped(thread.state.message or "The run was cancelled.")
        error = thread.state.result(raise_on_failure=False)
    if isinstance(error, NanochatError):
        raise error
    raise StageFailed(f"The flow broke: {error!r}.", hint=f"That is a mistake of ours; `{log}` has the traceback.")


def _keep_log(folder: Path) -> Path:
    """Prefect's own lines go to a file; the terminal is for ours."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "client.log"
    if path.exists() and path.stat().st_size > LOG_BYTES:  # asked once, and not at each line
        path.replace(folder / "client.log.1")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    logging.getLogger("prefect").addHandler(handler)
    return path


def _drain() -> None:
    """Sends what the server has not been told yet: states of tasks and log lines."""
    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=5)
