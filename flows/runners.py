"""Prefect's task runners: threads, processes, Dask or Ray."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from nanochat import settings
from nanochat.config.compute import Compute, DataWorkers
from nanochat.errors import BadConfig


@contextmanager
def runners(compute: Compute) -> Iterator[tuple[ThreadPoolTaskRunner, TaskRunner[Any]]]:
    """Starts two task runners: threads of this process, and the one for shards, which may be the same.

    Raises `BadConfig` if the package of a runner is not installed, or its scheduler does not answer.
    """
    workers = compute.data_workers
    with ThreadPoolTaskRunner(max_workers=workers.threads()) as local:
        if workers.task_runner == "threads":
            yield local, local
            return
        with _started(_runner(workers), workers) as for_shards:
            yield local, for_shards


def _runner(workers: DataWorkers) -> TaskRunner[Any]:
    if workers.task_runner == "processes":
        return ProcessPoolTaskRunner(max_workers=workers.threads())
    if workers.task_runner == "dask":
        dask = _package("prefect_dask", "dask")
        if workers.scheduler:
            return dask.DaskTaskRunner(address=workers.scheduler)
        # one thread per worker, as stages have their own threads; no dashboard, which would listen on all interfaces
        cluster = {"n_workers": workers.threads(), "threads_per_worker": 1, "processes": True}
        here = {"host": "127.0.0.1", "dashboard_address": None, "local_directory": str(settings.home() / "dask")}
        return dask.DaskTaskRunner(cluster_kwargs=cluster | here)
    ray = _package("prefect_ray", "ray")
    if workers.scheduler:
        return ray.RayTaskRunner(address=workers.scheduler)
    cluster = {"num_cpus": workers.threads(), "include_dashboard": False, "log_to_driver": False}
    return ray.RayTaskRunner(init_kwargs={**cluster, "_node_ip_address": "127.0.0.1"})


def _package(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadConfig(
            f"`task_runner={extra}` needs a package that is not installed ({error}).",
            hint=f"`pip install -c constraints.txt 'nanochat[{extra}]'`, on the workers too.",
        ) from error


@contextmanager
def _started(runner: TaskRunner[Any], workers: DataWorkers) -> Iterator[TaskRunner[Any]]:
    try:
        runner.__enter__()
        if workers.task_runner == "dask":
            getattr(runner, "client")  # noqa: B009 - connects, and only this kind has it
    except (OSError, TimeoutError, ConnectionError, ValueError) as error:
        where = f"at `{workers.scheduler}`" if workers.scheduler else "on this machine"
        raise BadConfig(
            f"No {workers.task_runner} cluster {where}: {' '.join(str(error).split())}.",
            hint="Check `compute.data_workers.scheduler`.",
        ) from error
    try:
        yield runner
    finally:
        runner.__exit__(None, None, None)
