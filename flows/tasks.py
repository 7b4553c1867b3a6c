"""Stage → Prefect task: the only adaptor.

The store decides what is reused, so tasks run with `NO_CACHE`: on a hit the body has run too, has published its
artifact to the UI, and returns Prefect's own *Cached* state. Between tasks go manifests, which any task runner can
carry; the payload stays in the store.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner

from flows.pages import publish
from flows.place import elsewhere
from flows.progress import TaskProgress
from nanochat import settings
from nanochat.config import Compute, Config
from nanochat.errors import NanochatError, StageFailed
from nanochat.pipeline import Each, Unwatched, Watch, deal
from nanochat.progress import Progress
from nanochat.stages.stage import Inputs, Stage
from nanochat.store.artifacts import Artifact, Store
from nanochat.store.manifest import Manifest

TURN_POLL_S = 0.5
Handle = PrefectFuture[Manifest] | Artifact
"""What a task will make, or what was there before the run."""


class Stopped(NanochatError):
    """The run was cancelled; a watch raises it from within a stage's progress."""


class RunWatch(Watch, Protocol):
    """Is told how a run goes, in the process that runs it."""

    def began(self, run_id: str, url: str) -> None: ...

    def stop(self, reason: str) -> None: ...

    def failed(self, label: str, error: NanochatError) -> None: ...


class Unseen(Unwatched):
    """For workers: the UI is who watches."""

    def __init__(self) -> None:
        self._reason = ""

    def began(self, run_id: str, url: str) -> None:
        """Nobody looks."""

    def stop(self, reason: str) -> None:
        """From now on each stage that starts, or says how far it is, hears that it has to end."""
        self._reason = reason

    def started(self, label: str, stage: Stage) -> Progress:
        def progress(*_: Any, **__: Any) -> None:
            if self._reason:
                raise Stopped(self._reason)

        progress(label)
        return progress

    def failed(self, label: str, error: NanochatError) -> None:
        """Nobody looks."""


WATCH: ContextVar[RunWatch] = ContextVar("watch", default=Unseen())  # noqa: B039 - a worker's process runs one flow
"""Set by the command line around the flow; the tasks' threads inherit it."""


@lru_cache
def open_store(url: str) -> Store:
    """One store a process and address: its connections and what it has verified are shared by the tasks."""
    return Store(url, settings.home() / "cache")


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help."""
    return isinstance(state.data, NanochatError) and state.data.transient


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[2, 10, 60],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)
def run_stage(
    stage: Stage,
    config: Config,
    inputs: dict[str, Manifest | list[Manifest]],
    label: str,
    store: str,
    compute: Compute,
    gpu_pool: str = "",
) -> Any:
    """Reuses or computes one artifact; Failed and Cancelled states carry the error's sentence, not a traceback."""
    logger = get_run_logger()
    watch = WATCH.get()
    opened = open_store(store)
    try:
        progress = TaskProgress(label, logger, watch.started(label, stage), drawn=stage.resource == "gpu")
        artifacts = {name: _artifacts(opened, given) for name, given in inputs.items()}
        artifact = stage.find(config, artifacts, opened)
        if artifact is None and gpu_pool and stage.resource == "gpu":
            artifact = _elsewhere(gpu_pool, stage, config, artifacts, label, store, compute, progress)
        elif artifact is None:
            with _turn(progress) if stage.resource == "gpu" else nullcontext():
                artifact = stage.run(
                    config,
                    artifacts,
                    store=opened,
                    compute=compute,
                    progress=progress,
                    folder_root=settings.home() / "runs",
                    run_name=flow_run.name or "",
                )
        publish(opened, artifact, stage.summary)
        progress.ended()
        watch.ended(label, artifact, progress.seconds)
    except Stopped as stop:
        return Cancelled(message=stop.message)
    except NanochatError as error:
        watch.failed(label, error)
        return Failed(message=str(error), data=error)
    return Completed(name="Cached", data=artifact.manifest) if artifact.reused else artifact.manifest


def _elsewhere(
    pool: str,
    stage: Stage,
    config: Config,
    inputs: Inputs,
    label: str,
    store: str,
    compute: Compute,
    progress: Progress,
) -> Artifact:
    state = elsewhere(pool, stage, config, inputs, label, store, compute, progress)
    if state.is_cancelled():
        raise Stopped(f"`{label}` was cancelled in the pool `{pool}`.")
    made = open_store(store).read(stage.name, stage.key(config, inputs))
    if not state.is_completed() or made is None:
        raise StageFailed(f"`{label}` failed in the pool `{pool}`: {state.message or state.name}")
    return open_store(store).artifact(made, reused=False)


@contextmanager
def _turn(progress: Progress) -> Iterator[None]:
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
                progress(0, 0, "", "waiting for its turn")
                time.sleep(TURN_POLL_S)
        yield


def _artifacts(store: Store, given: Manifest | list[Manifest]) -> Artifact | list[Artifact]:
    if isinstance(given, list):
        return [store.artifact(manifest, reused=True) for manifest in given]
    return store.artifact(given, reused=True)


def stage_task(stage: Stage) -> Task[..., Any]:
    """The task with what the UI shows of a stage."""
    return run_stage.with_options(
        name=stage.name,
        description=stage.summary,
        tags={stage.resource},  # each set of tags costs a question to the server; the name says the stage
        task_run_name="{label}",
    )


def _handed(given: Any) -> Any:
    """Futures as they are; artifacts that were there before the run as their manifests."""
    if isinstance(given, list):
        return [_handed(each) for each in given]
    return given.manifest if isinstance(given, Artifact) else given


@dataclass(frozen=True)
class PrefectRun:
    """Executes the graph as Prefect tasks; its handles are futures of manifests."""

    runner: TaskRunner[Any]
    store: str
    compute: Compute
    gpu_pool: str = ""
    """Work pool for stages that train or examine; empty: here."""
    futures: dict[str, PrefectFuture[Manifest]] = field(default_factory=dict)
    """Label → future, in the order of the graph."""

    def __call__(self, stage: Stage, config: Config, **inputs: Handle | list[Handle]) -> Handle:
        return self._submit(stage, config, stage.name, inputs)

    def map(
        self, stage: Stage, configs: Sequence[Config], names: Sequence[str], **inputs: Each | Handle | list[Handle]
    ) -> list[Handle]:
        calls = enumerate(zip(configs, names, strict=True))
        return [self._submit(stage, config, f"{stage.name} {name}", deal(i, inputs)) for i, (config, name) in calls]

    def _submit(self, stage: Stage, config: Config, label: str, inputs: Mapping[str, Any]) -> PrefectFuture[Manifest]:
        parameters = dict(
            stage=stage,
            config=config,
            inputs={name: _handed(given) for name, given in inputs.items()},
            label=label,
            store=self.store,
            compute=self.compute,
            gpu_pool=self.gpu_pool,
        )
        future = self.runner.submit(stage_task(stage), parameters)
        self.futures[label] = future
        return future
