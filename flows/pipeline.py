"""The flow, with its form in the Prefect UI."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.models import publish_models
from flows.publish import publish_run
from flows.tasks import WATCH, PrefectRun, Stopped, open_store
from nanochat import settings
from nanochat.config import Compute, PipelineConfig
from nanochat.errors import NanochatError, StageFailed
from nanochat.pipeline import pipeline, publish_aliases
from nanochat.profiles import parse
from nanochat.profiles import profile as profile_named
from nanochat.store.artifacts import Store
from nanochat.store.runs import recording

MOST_STARTS = 6
"""A run that crashes is started again (`automations.py`), but not for ever."""

ProfileName = Literal["demo", "cpu", "d12", "speedrun"]


def run_name() -> str:
    """`demo · d4 · world`."""
    given: dict[str, Any] = flow_run.parameters or {}
    name = given.get("profile", "demo")
    try:
        config = _config(name, given.get("config"))
    except NanochatError:  # the flow will say it
        return f"{name} · refused"
    source = PurePosixPath(config.data.source.rstrip("/")).name
    return f"{name} · d{config.pretrain.model.depth} · {source}"


# Prefect would refuse wrong values too, in several lines of its own words.
@flow(name="nanochat", flow_run_name=run_name, persist_result=False, validate_parameters=False)
def nanochat_flow(
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
) -> State[Any]:
    """From raw text to a chat model and its report: what the store has is reused, the rest is computed.

    Args:
        profile: A complete config with a name.
        config: Every field of every stage, instead of the profile's; they are what the results' keys are made of.
        compute: How to run, instead of the profile's way; no result depends on it.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
    """
    if flow_run.run_count > MOST_STARTS:
        return Failed(
            message=f"Crashed {MOST_STARTS} times; its logs may say why (out of memory?). Retry starts it again."
        )
    try:
        return _run(profile, _config(profile, config), _compute(profile, compute), store)
    except Stopped as stop:
        return Cancelled(message=stop.message)
    except NanochatError as error:
        return Failed(message=str(error), data=error)


def _config(profile: str, config: Any) -> PipelineConfig:
    return profile_named(profile).config if config in (None, {}) else parse(PipelineConfig, config)


def _compute(profile: str, compute: Any) -> Compute:
    return profile_named(profile).compute if compute in (None, {}) else parse(Compute, compute)


def _run(profile: str, config: PipelineConfig, compute: Compute, store_url: str) -> State[Any]:
    WATCH.get().began(flow_run.id or "", flow_run.ui_url or "")
    url = store_url or settings.store_url()
    opened = open_store(url)
    with recording(opened, profile, config.canonical(), flow_run=flow_run.id or "", stopped_by=(Stopped,)) as record:
        WATCH.set(record.watching(WATCH.get()))
        return _execute(profile, config, compute, url, opened)


def _execute(profile: str, config: PipelineConfig, compute: Compute, url: str, opened: Store) -> State[Any]:
    with ThreadPoolTaskRunner(max_workers=compute.workers or settings.cores()) as runner:
        run = PrefectRun(runner, url, compute)
        handles = pipeline(run, config)
        try:
            for future in run.futures.values():
                future.wait()
        except BaseException:  # a worker's SIGTERM: the tasks' threads would go on
            WATCH.get().stop("The run was told to end.")
            raise
    for label, future in run.futures.items():
        _expect_success(label, future.state)
    publish_aliases(opened, handles.each(lambda future: opened.artifact(future.result(), reused=True)))
    outcome = {label: (future.result(), future.state.name == "Cached") for label, future in run.futures.items()}
    publish_run(flow_run.name or profile, flow_run.id or "", outcome)
    publish_models(opened)
    cached = sum(reused for _, reused in outcome.values())
    state = "Cached" if cached == len(outcome) else None
    return Completed(name=state, message=f"{len(outcome) - cached} computed, {cached} cached")


def _expect_success(label: str, state: State[Any]) -> None:
    if state.is_cancelled():
        raise Stopped(state.message or "Cancelled.")
    if state.is_failed() or state.is_crashed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, NanochatError):
            raise error
        raise StageFailed(f"`{label}` broke: {error!r}.", hint="That is a mistake of ours; its log has the traceback.")
