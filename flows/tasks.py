"""One task of a flow run: runs its calls of a stage, and shows them in the UI.

The store decides what is reused, so tasks run with `NO_CACHE`. With a cached artifact, the task publishes its page as
well, and returns Prefect's *Cached* state.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from filelock import FileLock, Timeout
from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.control import CONTROL
from flows.pages import publish, remember
from flows.progress import TaskProgress
from flows.remote_stage import produce_in_pool
from flows.task_data import CallInput, CallResult, TaskCalls, TaskResults, Upstream
from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.errors import NanochatError, Stopped
from nanochat.execution.attempt import Attempt
from nanochat.execution.local import emit_finished
from nanochat.execution.stage import Stage
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store

TURN_POLL_S = 0.5


@lru_cache
def open_store(url: str, *, read_only: bool = False) -> Store:
    """One store per process and address: tasks share its connections and its record of verified payloads."""
    return Store(url, settings.home() / "cache", read_only=read_only)


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may help."""
    return isinstance(state.data, NanochatError) and state.data.transient


def run_calls(
    stage: Stage[Any, Any],
    calls: TaskCalls,
    upstream: Sequence[TaskResults],
    store: str,
    compute: Compute,
    gpu_pool: str = "",
) -> Any:
    """Reuses or computes the artifacts of calls, one after the other, and publishes them to the UI.

    Failed and Cancelled states contain the message of the error, not a traceback. Artifacts of earlier calls stay in
    the store.
    """
    logger = get_run_logger()
    opened = open_store(store)
    progress = CONTROL.get().reporter(calls.label, stage.name)
    artifacts: list[Artifact] = []
    try:
        for results in upstream:
            remember(results.results)
        for call in calls.calls:
            bar = TaskProgress(logger, bar=stage.resource == "gpu")
            progress = CONTROL.get().with_sink(bar).reporter(call.label, stage.name)
            progress.emit("started")
            inputs, folder = _inputs(opened, call.inputs, upstream), settings.home() / "runs"
            attempt = Attempt(stage, call.config, inputs, opened, compute, folder, progress, flow_run.name or "")
            artifacts.append(_produce(attempt, call.label, gpu_pool))
            emit_finished(progress, artifacts[-1])
        page = publish(opened, artifacts, stage.summary, calls.label)
    except Stopped as stop:
        return Cancelled(message=stop.message)
    except NanochatError as error:
        progress.emit("failed", error=str(error))
        return Failed(message=str(error), data=error)
    results = TaskResults([CallResult(artifact.manifest, artifact.reused, page) for artifact in artifacts])
    return Completed(name="Cached", data=results) if all(artifact.reused for artifact in artifacts) else results


RUN_CALLS = task(
    cache_policy=NO_CACHE, persist_result=False, retries=3, retry_delay_seconds=[2, 10, 60], retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)(run_calls)  # fmt: skip
"""Not a decorator: workers in other processes find the function by its name."""


def stage_task(stage: Stage[Any, Any], label: str) -> Task[..., Any]:
    """The task of a stage, with its name and description in the UI.

    It has no tags: for those, Prefect requests concurrency limits from the server, and a busy SQLite takes two seconds.
    """
    return RUN_CALLS.with_options(
        name=stage.name, description=stage.summary, task_run_name=label.replace("{", "{{").replace("}", "}}")
    )


def _produce(attempt: Attempt[Any], label: str, gpu_pool: str) -> Artifact:
    if attempt.stage.resource == "cpu":
        return attempt.produce()
    if (found := attempt.find()) is not None:
        return found
    if gpu_pool:
        return produce_in_pool(gpu_pool, attempt, label)
    with _training_lock(attempt):
        return attempt.produce()


@contextmanager
def _training_lock(attempt: Attempt[Any]) -> Iterator[None]:
    """Lets one stage at a time train or evaluate on this machine, across all runs.

    It is a file lock, which ends with its process. A slot of Prefect's concurrency limits outlives a killed run, and
    the next run would wait forever.
    """
    settings.home().mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.home() / "training.lock", fallback_to_soft=False)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=TURN_POLL_S)
        except Timeout:
            attempt.progress.log("waiting for another stage that trains on this machine")
    try:
        yield
    finally:
        lock.release()


def _inputs(
    store: Store, inputs: Mapping[str, CallInput | Sequence[CallInput]], upstream: Sequence[TaskResults]
) -> dict[str, Artifact | list[Artifact]]:
    def artifact(given: CallInput) -> Artifact:
        manifest = upstream[given.task].results[given.result].manifest if isinstance(given, Upstream) else given
        return store.artifact(manifest, reused=True)

    return {
        name: [artifact(each) for each in given] if isinstance(given, Sequence) else artifact(given)
        for name, given in inputs.items()
    }
