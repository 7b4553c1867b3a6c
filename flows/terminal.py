"""A flow run in this process, drawn in the terminal and shown in the Prefect UI.

The flow runs in a separate thread, so that Prefect does not handle Ctrl-C: the stages receive a request to stop, the
run becomes *Cancelled*, and Prefect shuts down in order. A run that is cancelled in the UI ends in the same way.
"""

import logging
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled

from flows.control import CONTROL, RunControl
from nanochat.console import Screen
from nanochat.errors import NanochatError, StageFailed, Stopped, Terminated
from nanochat.events import Event

POLL_EVERY_S = 2.0
HEARTBEAT_EVERY_S = 30.0
STOP_WITHIN_S = 20.0
LOG_BYTES = 5_000_000


class _FlowThread(threading.Thread):
    def __init__(self, flow: Flow[..., Any], parameters: dict[str, Any], screen: Screen) -> None:
        super().__init__(daemon=True, name="flow")
        self.flow, self.parameters, self.screen = flow, parameters, screen
        self.control = RunControl((screen, self._keep_finished), on_start=self._on_start)
        self.run_id = ""
        self.finished: list[Event] = []
        self.state: State[Any] | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()  # a `join` that Ctrl-C interrupts marks the thread as ended (bpo-45274)

    def run(self) -> None:
        CONTROL.set(self.control)
        try:
            # The thread of Prefect's heartbeat sleeps a second at a time, and delays the end of the flow as long.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                self.state = self.flow(**self.parameters, return_state=True)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            self.error = error
        self.done.set()

    def _on_start(self, run_id: str, url: str) -> None:
        self.run_id = run_id
        self.screen.print(f"run     {url}\n")

    def _keep_finished(self, event: Event) -> None:
        if event.kind == "finished":
            self.finished.append(event)


def run_flow(flow: Flow[..., Any], parameters: dict[str, Any], screen: Screen, folder: Path) -> list[Event]:
    """Runs a flow and draws it; returns the last event of each node. See `run.run_with_prefect`."""
    log = _keep_log(folder)
    thread = _FlowThread(flow, parameters, screen)
    thread.start()
    threading.Thread(target=_send_heartbeats, args=[thread], daemon=True, name="heartbeat").start()
    interrupted = _wait(thread)
    _drain()
    if interrupted is not None:
        raise interrupted
    _expect_success(thread, log)
    return thread.finished


def _wait(thread: _FlowThread) -> KeyboardInterrupt | Terminated | None:
    """Waits for the end of the flow; returns the Ctrl-C or signal that caused it."""
    polled = time.monotonic()
    with ExitStack() as stack:
        client = None  # shared by all polls: loading its certificates takes longer than a request
        try:
            while not thread.done.wait(0.1):
                if time.monotonic() - polled > POLL_EVERY_S and thread.run_id:
                    polled = time.monotonic()
                    client = client or stack.enter_context(get_client(sync_client=True))
                    if _is_cancelled(client, thread.run_id):
                        thread.control.stop.request("The run was cancelled in the Prefect UI.")
            return None
        except (KeyboardInterrupt, Terminated) as stop:
            _stop(thread, stop)
            return stop


def _send_heartbeats(thread: _FlowThread) -> None:
    """Sends the events of Prefect's own heartbeat, in a thread: a busy server may delay the polls of `_wait`."""
    wait_s = 0.1
    while not thread.done.wait(wait_s):
        if thread.run_id:
            emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{thread.run_id}"})
            wait_s = HEARTBEAT_EVERY_S


def _stop(thread: _FlowThread, stop: KeyboardInterrupt | Terminated) -> None:
    """Ends the stages. If they do not end in time, or at a second Ctrl-C, ends the process at once.

    The supervisor of a training ends it with this process in any case; the server ends too.
    """
    by = signal.Signals(stop.number).name if isinstance(stop, Terminated) else "Ctrl-C"
    try:
        thread.control.stop.request(f"Stopped by {by}.")
        thread.screen.print("Stopping …")
        if not thread.done.wait(STOP_WITHIN_S):
            _mark_cancelled(thread.run_id, f"Stopped by {by}.")
    except KeyboardInterrupt:
        thread.screen.print("Stopped at once.")
    if not thread.done.is_set():
        os._exit(128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT))


def _is_cancelled(client: SyncPrefectClient, run_id: str) -> bool:
    try:
        state = client.read_flow_run(UUID(run_id)).state
    except httpx.HTTPError:
        return False  # the run itself fails when the server is gone
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
    raise StageFailed(f"The flow failed: {error!r}.", hint=f"This is a bug in nanochat; `{log}` has the traceback.")


def _keep_log(folder: Path) -> Path:
    """Sends the log lines of Prefect to a file; the terminal shows the screen only."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "client.log"
    if path.exists() and path.stat().st_size > LOG_BYTES:  # checked once, not at each line
        path.replace(folder / "client.log.1")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    logging.getLogger("prefect").addHandler(handler)
    return path


def _drain() -> None:
    """Sends the states of tasks and the log lines that the server does not have yet."""
    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=5)
