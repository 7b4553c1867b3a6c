"""`nanochat run`: a Prefect server for the run, then the flow in this process, drawn in the terminal."""

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

    Raises the `NanochatError` that ended the run, or `KeyboardInterrupt` or `Terminated` for Ctrl-C or a signal.
    """
    folder = settings.home() / "prefect"
    alone = not prefect_environment.api_url() and not has_supervisor(folder)
    with Screen() as screen, start_server(settings.home()) as starting:
        prefect_environment.configure_client(starting.api_url, folder)
        with _without_garbage_collection():
            # Prefect reads its settings when it is imported. The import takes a second, in which the server starts.
            from flows.site.prefect_settings import load_settings  # noqa: PLC0415

            load_settings()
            from flows.terminal import run_flow  # noqa: PLC0415

        starting.wait(screen.print)
        screen.print(f"prefect {without_login(starting.api_url).removesuffix('/api')}")
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
