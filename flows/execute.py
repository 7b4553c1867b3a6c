"""One flow run of a graph: what was asked for, its tasks, and the state and pages that are left of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.models import publish_models
from flows.pages import publish_run
from flows.tasks import WATCH, Handle, PrefectRun, Stopped, open_store
from nanochat import settings
from nanochat.config import Compute, PipelineConfig
from nanochat.errors import NanochatError, StageFailed
from nanochat.pipeline import Handles
from nanochat.profiles import PROFILES, parse
from nanochat.profiles import profile as profile_named
from nanochat.store.artifacts import Artifact, Store
from nanochat.store.runs import recording

MOST_STARTS = 6
"""A run that crashes is started again (`automations.py`), but not for ever."""

H = TypeVar("H", bound=Handles)


@dataclass(frozen=True)
class Asked:
    """What the form of a run says, checked."""

    profile: str
    config: PipelineConfig
    compute: Compute
    store: Store
    gpu_pool: str


@dataclass(frozen=True)
class Said:
    """How a run ended well; without a name it is *Completed*."""

    message: str
    name: str = ""


def asked(profile: str, config: Any, compute: Any, store: str, gpu_pool: str = "") -> Asked:
    """What a form says; raises `NotFound` or `BadConfig`, naming the field."""
    return Asked(
        profile,
        _config(profile, config),
        profile_named(profile).compute if compute in (None, {}) else parse(Compute, compute),
        open_store(store or settings.store_url()),
        gpu_pool,
    )


def _config(profile: str, config: Any) -> PipelineConfig:
    """The profile's, when there is none; also when it is another profile's as it stands.

    A form comes filled with one profile's values: who chooses another one there, and changes nothing else, means that.
    """
    named = profile_named(profile).config
    if config in (None, {}):
        return named
    given = parse(PipelineConfig, config)
    return named if any(given == each.config for each in PROFILES.values()) else given


def title() -> str:
    """`d4 · world`: what a run is about, for its name."""
    given: dict[str, Any] = flow_run.parameters or {}
    name = given.get("profile", "demo")
    try:
        config = _config(name, given.get("config"))
    except NanochatError:  # the flow will say it
        return "refused"
    source = PurePosixPath(config.data.source.rstrip("/")).name
    return f"d{config.pretrain.model.depth} · {source}"


def answered(work: Callable[[], Said]) -> State[Any]:
    """Does the work of a flow run; its errors become states that carry a sentence instead of a traceback."""
    if flow_run.run_count > MOST_STARTS:
        return Failed(
            message=f"Crashed {MOST_STARTS} times; its logs may say why (out of memory?). Retry starts it again."
        )
    try:
        said = work()
        return Completed(name=said.name or None, message=said.message)
    except Stopped as stop:
        return Cancelled(message=stop.message)
    except NanochatError as error:
        return Failed(message=str(error), data=error)


def execute(asked: Asked, graph: Callable[[PrefectRun], H], closing: Callable[[H], Said | None]) -> Said:
    """Runs a graph, as tasks of this flow run; `closing` is given its artifacts, and may have something to say."""
    WATCH.get().began(flow_run.id or "", flow_run.ui_url or "")
    config = asked.config.canonical()
    flow_run_id = flow_run.id or ""
    with recording(asked.store, asked.profile, config, flow_run=flow_run_id, stopped_by=(Stopped,)) as record:
        WATCH.set(record.watching(WATCH.get()))
        return _execute(asked, graph, closing)


def _execute(asked: Asked, graph: Callable[[PrefectRun], H], closing: Callable[[H], Said | None]) -> Said:
    store = asked.store
    with ThreadPoolTaskRunner(max_workers=asked.compute.workers or settings.cores()) as runner:
        run = PrefectRun(runner, store.objects.root, asked.compute, asked.gpu_pool)
        handles = graph(run)
        try:
            for future in run.futures.values():
                future.wait()
        except BaseException:  # a worker's SIGTERM: the tasks' threads would go on
            WATCH.get().stop("The run was told to end.")
            raise
    for label, future in run.futures.items():
        expect_success(label, future.state)
    said = closing(handles.each(lambda handle: _artifact(store, handle)))
    outcome = {label: (future.result(), future.state.name == "Cached") for label, future in run.futures.items()}
    publish_models(store)
    publish_run(flow_run.name or asked.profile, flow_run.id or "", outcome)
    cached = sum(reused for _, reused in outcome.values())
    counted = f"{len(outcome) - cached} computed, {cached} cached"
    name = "Cached" if cached == len(outcome) else ""
    return Said(f"{said.message} ({counted})", said.name or name) if said else Said(counted, name)


def _artifact(store: Store, handle: Handle) -> Artifact:
    return handle if isinstance(handle, Artifact) else store.artifact(handle.result(), reused=True)


def expect_success(label: str, state: State[Any]) -> None:
    """Raises the error with which a task ended."""
    if state.is_cancelled():
        raise Stopped(state.message or "Cancelled.")
    if state.is_failed() or state.is_crashed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, NanochatError):
            raise error
        raise StageFailed(f"`{label}` broke: {error!r}.", hint="That is a mistake of ours; its log has the traceback.")
