"""One flow run of a graph: what was asked for, its tasks, and the state and pages that are left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.control import CONTROL
from flows.models_page import publish_models
from flows.pages import publish_run, remember
from flows.runners import runners
from flows.submit import Handle, PrefectRun
from flows.tasks import open_store
from nanochat import settings
from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.config.overrides import merge, parse
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import BadConfig, NanochatError, Stopped
from nanochat.failures import to_nanochat_error
from nanochat.graphs.pipeline import Handles
from nanochat.profiles import PROFILES
from nanochat.profiles import profile as profile_named
from nanochat.store.artifacts import Artifact
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store

H = TypeVar("H", bound=Handles)
C = TypeVar("C", bound=Config)


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
        _compute(profile, compute),
        open_store(_address(store) or settings.store_url()),
        gpu_pool,
    )


def _config(profile: str, config: Any) -> PipelineConfig:
    return _over(profile_named(profile).config, config, [each.config for each in PROFILES.values()])


def _compute(profile: str, compute: Any) -> Compute:
    return _over(profile_named(profile).compute, compute, [each.compute for each in PROFILES.values()])


def _over(named: C, given: Any, profiles: Sequence[C]) -> C:
    """What a form says over the profile that it names: fields that it lacks are the profile's, at every depth.

    A list counts as a whole. A form that holds all of another profile's values means the one it names: forms come
    filled with one profile's values, and who chooses another one there, and changes nothing else, means that.
    Raises `BadConfig` naming the field, also of one that there is not.
    """
    if given is None:
        return named
    if isinstance(given, type(named)):
        return given
    if not isinstance(given, Mapping):
        return parse(type(named), given)
    values = named.model_dump(mode="json")
    changes = named.with_current_names(given)
    merged = merge(values, changes)
    config = parse(type(named), merged)
    whole = merged == merge({}, changes)
    return named if whole and any(config == each for each in profiles) else config


def _address(store: str) -> str:
    """Raises `BadConfig` for a folder without a beginning: it would be one below wherever a worker happens to run."""
    if settings.is_relative_store(store):
        raise BadConfig(f"`store` is `{store}`, which depends on the folder of the worker.", hint="Write `file:///…`.")
    return store


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
    if _began_after_its_end():
        return Cancelled(message="It was cancelled before it began.")
    try:
        said = work()
        return Completed(name=said.name or None, message=said.message)
    except Stopped as stop:
        return Cancelled(message=stop.message)
    except NanochatError as error:
        return Failed(message=str(error), data=error)
    except Exception as error:  # noqa: BLE001 - any error that is left becomes a sentence, and its traceback a file
        sentence = to_nanochat_error(error, "the run")
        return Failed(message=str(sentence), data=sentence)


def _began_after_its_end() -> bool:
    """Whether this process was so slow to start that its run had been cancelled before: Prefect lets it go on."""
    if not deployment.id:
        return False
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(UUID(str(flow_run.id))), key=lambda state: state.timestamp)
        return len(states) > 1 and states[-1].is_running() and states[-2].is_cancelled()
    return False


def execute(asked: Asked, graph: Callable[[PrefectRun], H], closing: Callable[[H], Said | None]) -> Said:
    """Runs a graph, as tasks of this flow run; `closing` is given its artifacts, and may have something to say."""
    CONTROL.get().on_start(flow_run.id or "", flow_run.ui_url or "")
    config = asked.config.canonical()
    flow_run_id = flow_run.id or ""
    with record_run(asked.store, asked.profile, config, flow_run=flow_run_id, stopped_by=(Stopped,)) as record:
        CONTROL.set(CONTROL.get().with_sink(record))
        return _execute(asked, graph, closing)


def _execute(asked: Asked, graph: Callable[[PrefectRun], H], closing: Callable[[H], Said | None]) -> Said:
    store = asked.store
    with runners(asked.compute) as (here, for_shards):
        run = PrefectRun(store, asked.compute, here, for_shards, asked.gpu_pool)
        try:
            handles = graph(run)
            run.wait()
        except BaseException:  # a worker's SIGTERM: the tasks' threads would go on
            CONTROL.get().stop.request("The run was told to end.")
            raise
        made = {
            call.label: each for task in run.tasks for call, each in zip(task.calls.calls, task.made(), strict=True)
        }
    remember(made.values())
    said = closing(handles.each(lambda handle: _artifact(store, handle)))
    publish_models(store)
    publish_run(flow_run.name or asked.profile, flow_run.id or "", made)
    cached = sum(each.reused for each in made.values())
    counted = f"{len(made) - cached} computed, {cached} cached"
    name = "Cached" if cached == len(made) else ""
    return Said(f"{said.message} ({counted})", said.name or name) if said else Said(counted, name)


def _artifact(store: Store, handle: Handle) -> Artifact:
    return handle if isinstance(handle, Artifact) else store.artifact(handle.made().manifest, reused=True)
