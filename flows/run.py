"""`nanochat run`, `evaluate` and `experiment`: a Prefect server for the run, then the flow in this process, drawn."""

import gc
import importlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from flows.site import prefect_environment
from flows.site.server import start_server
from flows.site.server_check import without_login
from flows.site.supervisor import has_supervisor
from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.config.experiment import ExperimentConfig, ExperimentFile
from nanochat.config.pipeline import PipelineConfig
from nanochat.console import Screen, duration
from nanochat.events import Event
from nanochat.store.store import Store


def run_with_prefect(config: PipelineConfig, compute: Compute, store_url: str, profile_name: str) -> int:
    """Runs the pipeline as a Prefect flow; returns the exit code. Raises what `evaluate_with_prefect` raises."""
    began = time.monotonic()
    with Screen() as screen:
        finished = _run("flows.pipeline:nanochat_flow", _parameters(config, compute, store_url, profile_name), screen)
        screen.print(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - began)}.")
        store = Store(settings.absolute_store(store_url), settings.home() / "cache", read_only=True)
        for event in finished:
            if event.stage == "report" and (report := store.read("report", event.key)):
                screen.print(f"report  {store.artifact(report, reused=True).path / 'report.html'}")
        screen.print('chat    nanochat chat -p "Hello!"')
    return 0


def evaluate_with_prefect(
    model: str, tasks: Sequence[str], config: PipelineConfig, compute: Compute, store_url: str, profile_name: str
) -> list[tuple[str, str]]:
    """Evaluates a model as a Prefect flow; returns stage and key of each evaluation.

    Raises the `NanochatError` that ended the run, or `KeyboardInterrupt` or `Terminated` for Ctrl-C or a signal.
    """
    parameters = _parameters(config, compute, store_url, profile_name) | {"model": model, "tasks": list(tasks)}
    with Screen() as screen:
        finished = _run("flows.model_flows:evaluate_flow", parameters, screen)
    return [(event.stage, event.key) for event in finished if event.stage.startswith("evaluate_")]


def experiment_with_prefect(
    experiment: ExperimentFile, config: PipelineConfig, compute: Compute, store_url: str
) -> tuple[str, str]:
    """Runs an experiment as a Prefect flow; returns stage and key of its summary. Raises as `evaluate_with_prefect`."""
    given = ExperimentConfig.model_validate(experiment.model_dump(exclude={"base"}))
    parameters = _parameters(config, compute, store_url, experiment.base) | {"experiment": given}
    with Screen() as screen:
        finished = _run("flows.experiment:experiment_flow", parameters, screen)
    return finished[-1].stage, finished[-1].key


def _parameters(config: PipelineConfig, compute: Compute, store_url: str, profile_name: str) -> dict[str, Any]:
    store = settings.absolute_store(store_url)
    return {"profile": profile_name, "config": config, "compute": compute, "store": store}


def _run(flow: str, parameters: dict[str, Any], screen: Screen) -> list[Event]:
    """Runs a flow, `module:name`, in this process, on the server of the site or on one that ends with it."""
    folder = settings.home() / "prefect"
    alone = not prefect_environment.api_url() and not has_supervisor(folder)
    with start_server(settings.home()) as starting:
        prefect_environment.configure_client(starting.api_url, folder)
        with _without_garbage_collection():
            # Prefect reads its settings when it is imported. The import takes a second, in which the server starts.
            from flows.site.prefect_settings import load_settings  # noqa: PLC0415

            load_settings()
            from flows.terminal import run_flow  # noqa: PLC0415

            module, _, name = flow.partition(":")
            found = getattr(importlib.import_module(module), name)
        starting.wait(screen.print)
        screen.print(f"prefect {without_login(starting.api_url).removesuffix('/api')}")
        with _stale_runs(starting.api_url) if alone else nullcontext():
            return run_flow(found, parameters, screen, folder)


@contextmanager
def _stale_runs(api_url: str) -> Iterator[None]:
    """Checks for stale runs in place of a site supervisor, so that killed runs do not stay *Running*."""
    from flows.site.stale_runs import watch_runs  # noqa: PLC0415 - as above

    ending = threading.Event()
    log = logging.getLogger("prefect.nanochat").info  # to `client.log`
    threading.Thread(target=watch_runs, args=[api_url, ending, log], daemon=True, name="stale-runs").start()
    try:
        yield
    finally:
        ending.set()


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Excludes the objects made in the block, 300,000 of imported modules, from garbage collection for good.

    Collecting them would take a quarter of the time of Prefect's import, and as long again when the interpreter ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
