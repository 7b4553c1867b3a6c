"""One flow run: executes a graph as its tasks, and sets its final state and pages."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.control import CONTROL
from flows.executor import Executor
from flows.models_page import publish_models
from flows.pages import publish_run, remember
from flows.request import RunRequest
from flows.runners import runners
from flows.task_data import CallResult
from nanochat.errors import NanochatError, Stopped
from nanochat.execution.graph import AnyNode, Failures, Results
from nanochat.failures import to_nanochat_error
from nanochat.store.run_recording import record_run

IN_POOL = 64
"""Nodes of one run that wait for a pool at the same time."""

G = TypeVar("G")
Follow = Callable[[G, Results, Failures], object]
"""Makes the graph that runs after another one, of its results and of the errors of its nodes."""


@dataclass(frozen=True)
class RunSummary:
    """Message and name of the final state of a flow run that succeeded; without a name it is *Completed*."""

    message: str
    name: str = ""


def final_state(work: Callable[[], RunSummary]) -> State[Any]:
    """Does the work of a flow run. An error becomes a state with a sentence instead of a traceback."""
    if _was_cancelled_before():
        return Cancelled(message="It was cancelled before it began.")
    try:
        summary = work()
        return Completed(name=summary.name or None, message=summary.message)
    except Stopped as stop:
        return Cancelled(message=stop.message)
    except NanochatError as error:
        return Failed(message=str(error), data=error)
    except Exception as error:  # noqa: BLE001 - any other error becomes a sentence, and its traceback a file
        sentence = to_nanochat_error(error, "the run")
        return Failed(message=str(sentence), data=sentence)


def execute(
    request: RunRequest,
    build: Callable[[], G],
    finish: Callable[[G, Results], RunSummary | None],
    follow: Follow[G] | None = None,
) -> RunSummary:
    """Runs the graph that `build` returns as tasks of this flow run, and records the run in the store.

    `build` is called after the record was created: what it reads from the store is safe from garbage collection.
    `finish` moves aliases, and may return a summary. With `follow`, a node that fails ends only what depends on it, and
    the graph that `follow` makes of the results and errors runs next; `finish` then has the results of both.
    """
    flow_run_id = flow_run.id or ""
    CONTROL.get().on_start(flow_run_id, flow_run.ui_url or "")
    config = request.config.canonical()
    with record_run(request.store, request.profile, config, flow_run=flow_run_id, stopped_by=(Stopped,)) as record:
        CONTROL.set(CONTROL.get().with_sink(record))
        return _execute(request, build, finish, follow)


def _execute(
    request: RunRequest,
    build: Callable[[], G],
    finish: Callable[[G, Results], RunSummary | None],
    follow: Follow[G] | None,
) -> RunSummary:
    graph, results = build(), Results()
    failures: Failures | None = None if follow is None else {}
    found = _run(request, graph, results, failures)
    if follow is not None and failures is not None:
        found |= _run(request, follow(graph, results, failures), results, None)
    summary = finish(graph, results)
    publish_models(request.store)
    publish_run(
        flow_run.name or request.profile, flow_run.id or "", {node.label: result for node, result in found.items()}
    )
    cached = sum(result.reused for result in found.values())
    counts = f"{len(found) - cached} computed, {cached} cached"
    name = "Cached" if cached == len(found) else ""
    return RunSummary(f"{summary.message} ({counts})", summary.name or name) if summary else RunSummary(counts, name)


def _run(request: RunRequest, graph: object, results: Results, failures: Failures | None) -> dict[AnyNode, CallResult]:
    """Runs a graph, and adds its artifacts to the results."""
    with runners(request.compute) as (local, for_shards), ThreadPoolTaskRunner(max_workers=IN_POOL) as in_pool:
        executor = Executor(request.store, request.compute, local, for_shards, in_pool, request.gpu_pool)
        try:
            found = executor.run(graph, failures)
        except BaseException:  # for example SIGTERM to a worker: the threads of the tasks must end too
            CONTROL.get().stop.request("The run was stopped.")
            raise
    remember(found.values())
    for node, result in found.items():
        results[node] = request.store.artifact(result.manifest, reused=result.reused)
    return found


def _was_cancelled_before() -> bool:
    """Whether the run was cancelled while this process started, which Prefect does not check."""
    if not deployment.id:
        return False
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(UUID(str(flow_run.id))), key=lambda state: state.timestamp)
        return len(states) > 1 and states[-1].is_running() and states[-2].is_cancelled()
    return False
