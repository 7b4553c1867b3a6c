"""Stage → Prefect task: the only adaptor.

The store decides what is reused, so tasks run with `NO_CACHE`: on a hit the body has run too, has published its
artifact to the UI, and returns Prefect's own *Cached* state.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.calls import Batch, Call, Calls, Given, Made, Upstream
from flows.control import CONTROL
from flows.pages import publish, remember
from flows.place import elsewhere
from flows.progress import TaskProgress
from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.errors import NanochatError, StageFailed, Stopped
from nanochat.events import Reporter
from nanochat.execution.stage import Inputs, Stage
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store

TURN_POLL_S = 0.5


@lru_cache
def open_store(url: str, *, read_only: bool = False) -> Store:
    """One store a process and address: its connections and what it has verified are shared by the tasks."""
    return Store(url, settings.home() / "cache", read_only=read_only)


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help."""
    return isinstance(state.data, NanochatError) and state.data.transient


def run_calls(
    stage: Stage, calls: Calls, upstream: list[Batch], store: str, compute: Compute, gpu_pool: str = ""
) -> Any:
    """Reuses or computes the artifacts of calls, one after the other, and publishes them to the UI.

    Failed and Cancelled states carry the error's sentence, not a traceback; what was made before it is in the store.
    """
    logger = get_run_logger()
    opened = open_store(store)
    progress = CONTROL.get().reporter(calls.label, stage.name)
    made: list[Artifact] = []
    try:
        for batch in upstream:
            remember(batch.made)
        for call in calls.calls:
            page = TaskProgress(logger, bar=stage.resource == "gpu")
            progress = CONTROL.get().with_sink(page).reporter(call.label, stage.name)
            progress.emit("started")
            started = time.monotonic()
            artifacts = {name: _artifacts(opened, given, upstream) for name, given in call.inputs.items()}
            artifact = _artifact(stage, call, artifacts, opened, compute, gpu_pool, progress)
            emit_finished(progress, artifact, time.monotonic() - started)
            made.append(artifact)
        page = publish(opened, made, stage.summary, calls.label)
    except Stopped as stop:
        return Cancelled(message=stop.message)
    except NanochatError as error:
        progress.emit("failed", error=str(error))
        return Failed(message=str(error), data=error)
    batch = Batch([Made(artifact.manifest, artifact.reused, page) for artifact in made])
    return Completed(name="Cached", data=batch) if all(artifact.reused for artifact in made) else batch


RUN_CALLS = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[2, 10, 60],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)(run_calls)
"""Not a decorator: workers of other processes find the function by its name."""


def emit_finished(progress: Reporter, artifact: Artifact, seconds: float) -> None:
    """Reports the artifact of a node."""
    progress.emit("finished", key=artifact.key, cached=artifact.reused, seconds=seconds, metrics=artifact.metrics)


def _artifact(
    stage: Stage,
    call: Call,
    inputs: Inputs,
    store: Store,
    compute: Compute,
    gpu_pool: str,
    progress: Reporter,
) -> Artifact:
    if (found := stage.find(call.config, inputs, store)) is not None:
        return found
    if gpu_pool and stage.resource == "gpu":
        return _elsewhere(gpu_pool, stage, call, inputs, store, compute, progress)
    with _turn(progress) if stage.resource == "gpu" else nullcontext():
        return stage.run(
            call.config,
            inputs,
            store=store,
            compute=compute,
            progress=progress,
            folder_root=settings.home() / "runs",
            run_name=flow_run.name or "",
        )


def _elsewhere(
    pool: str, stage: Stage, call: Call, inputs: Inputs, store: Store, compute: Compute, progress: Reporter
) -> Artifact:
    state = elsewhere(pool, stage, call.config, inputs, call.label, store.objects.root, compute, progress)
    if state.is_cancelled():
        raise Stopped(f"`{call.label}` was cancelled in the pool `{pool}`.")
    made = store.read(stage.name, stage.key(call.config, inputs))
    if not state.is_completed() or made is None:
        raise StageFailed(f"`{call.label}` failed in the pool `{pool}`: {state.message or state.name}")
    return store.artifact(made, reused=False)


@contextmanager
def _turn(progress: Reporter) -> Iterator[None]:
    """One stage that trains at a time on this machine, over all runs: a lock that a killed run cannot keep.

    (A slot of Prefect's global limits outlives its holder: the next run would wait for ever.)
    """
    settings.home().mkdir(parents=True, exist_ok=True)
    with (settings.home() / "training.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress.log("waiting for its turn")
                time.sleep(TURN_POLL_S)
        yield


def _artifacts(store: Store, given: Given | Sequence[Given], upstream: Sequence[Batch]) -> Artifact | list[Artifact]:
    if isinstance(given, Sequence):
        return [_input(store, each, upstream) for each in given]
    return _input(store, given, upstream)


def _input(store: Store, given: Given, upstream: Sequence[Batch]) -> Artifact:
    manifest = upstream[given.task].made[given.place].manifest if isinstance(given, Upstream) else given
    return store.artifact(manifest, reused=True)


def stage_task(stage: Stage, label: str) -> Task[..., Any]:
    """The task with what the UI shows of a stage.

    No tags: for those Prefect asks the server for limits, and a SQLite that is written to answers with two seconds.
    """
    return RUN_CALLS.with_options(
        name=stage.name,
        description=stage.summary,
        task_run_name=label.replace("{", "{{").replace("}", "}}"),
    )
