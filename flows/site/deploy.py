"""Creates or updates work pools, the deployments of `prefect.yaml` and automations on a running server.

    PREFECT_API_URL=http://server:4200/api python -P -m flows.site.deploy

`nanochat up` calls this; the sites in `deploy/`, whose servers and workers other programs start, run it as a command.
"""

import subprocess  # noqa: TID251 - Prefect's own command line
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.site import prefect_environment
from flows.site.automations import apply_automations
from flows.site.prefect_settings import load_settings
from flows.site.server_check import check_server
from nanochat import settings
from nanochat.errors import NanochatError

PROJECT = Path(__file__).parents[2]
POOLS = ("cpu", "gpu")
CONCURRENT_SCHEDULED_RUNS = 1
"""Limit of the queue for scheduled runs."""


@dataclass(frozen=True)
class Deployed:
    """The deployments of a server."""

    deployments: list[str]
    notified: bool
    """Whether a webhook receives failed and late runs."""


def deploy() -> Deployed:
    """Deploys to the server of `PREFECT_API_URL`; existing pools stay as they are, whatever their type.

    Raises `NanochatError` when the server rejects a deployment.
    """
    _create_pools(POOLS)
    _run_prefect_deploy()
    notified = apply_automations()
    with get_client(sync_client=True) as client:
        queue = client.read_work_queue_by_name("scheduled", work_pool_name="cpu")
        client.update_work_queue(queue.id, concurrency_limit=CONCURRENT_SCHEDULED_RUNS)
        return Deployed(sorted(found.name for found in client.read_deployments()), notified)


def _create_pools(names: Sequence[str]) -> None:
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
            except ObjectAlreadyExists:
                continue


def _run_prefect_deploy() -> None:
    yaml = str(PROJECT / "prefect.yaml")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", yaml]
    environment = settings.for_children()
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise NanochatError(f"`prefect deploy --all` failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def main() -> None:
    """Prints what is deployed, or one sentence with the reason of a failure."""
    settings.settle()
    try:
        load_settings()
        check_server(prefect_environment.api_url())
        made = deploy()
    except NanochatError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"deployments {', '.join(made.deployments)}\nwebhook     {'set' if made.notified else 'none'}\n")


if __name__ == "__main__":
    main()
