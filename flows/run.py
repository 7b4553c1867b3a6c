"""`nanochat run`: a Prefect server for the run, then the flow in this process, drawn in the terminal."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from flows.site import prefect_environment
from flows.site.server import start_server
from flows.site.server_check import without_login
from flows.site.supervisor import has_supervisor
from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.console import Screen


def run_with_prefect(config: PipelineConfig, compute: Compute, store_url: str, profile_name: str) -> int:
    """Runs the pipeline as a Prefect flow; returns the exit code.

    Raises the `NanochatError` that ended the run, `KeyboardInterrupt` or `Terminated` when a person or a signal did.
    """
    folder = settings.home() / "prefect"
    alone = not prefect_environment.api_url() and not has_supervisor(folder)
    with Screen() as screen, start_server(settings.home()) as starting:
        prefect_environment.configure_client(starting.api_url, folder)
        with _to_stay():
            # Prefect reads its settings when it is imported; and our server needs that second anyway.
            from flows.site.prefect_settings import load_settings  # noqa: PLC0415

            load_settings()
            from flows.terminal import run_flow  # noqa: PLC0415

        starting.wait(screen.say)
        screen.say(f"prefect {without_login(starting.api_url).removesuffix('/api')}")
        parameters = {
            "profile": profile_name,
            "config": config,
            "compute": compute,
            "store": settings.absolute_store(store_url),
        }
        with _stale_runs(starting.api_url) if alone else nullcontext():
            return run_flow(parameters, screen, folder)


@contextmanager
def _stale_runs(api_url: str) -> Iterator[None]:
    """Checks for stale runs where no site supervisor does: earlier runs that were killed do not stay *Running*."""
    from flows.site.stale_runs import watch_runs  # noqa: PLC0415 - as above

    ending = threading.Event()
    say = logging.getLogger("prefect.nanochat").info  # to `client.log`
    threading.Thread(target=watch_runs, args=[api_url, ending, say], daemon=True, name="stale-runs").start()
    try:
        yield
    finally:
        ending.set()


@contextmanager
def _to_stay() -> Iterator[None]:
    """What is made in the block, 300,000 objects of imported modules, is never looked through for garbage.

    That costs a quarter of Prefect's import, and as much again when the interpreter ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
