"""Work pools, the deployments of `prefect.yaml`, and automations: made, or renewed, on a server that is there.

    PREFECT_API_URL=http://server:4200/api python -P -m flows.site.deploy

It starts nothing: `nanochat up` does, and calls this; `deploy/` has sites whose servers and workers others start.
"""

from __future__ import annotations

import subprocess  # noqa: TID251 - Prefect's own command line
import sys
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import get_client

from flows.site import prefect_environment
from flows.site.automations import apply_automations, make_pools
from flows.site.client import load
from flows.site.server_check import expect
from nanochat import settings
from nanochat.errors import NanochatError

PROJECT = Path(__file__).parents[2]
POOLS = ("cpu", "gpu")
SCHEDULED_AT_ONCE = 1
"""Runs of the queue that schedules have for themselves."""


@dataclass(frozen=True)
class Registered:
    """What a server knows of us now."""

    deployments: list[str]
    notified: bool
    """Whether somebody is told of runs that failed or are stuck."""


def register() -> Registered:
    """On the server of `PREFECT_API_URL`; pools that exist stay as they are, whatever their type.

    Raises `NanochatError` when the server does not take it.
    """
    make_pools(POOLS)
    _deploy()
    notified = apply_automations()
    with get_client(sync_client=True) as client:
        queue = client.read_work_queue_by_name("scheduled", work_pool_name="cpu")
        client.update_work_queue(queue.id, concurrency_limit=SCHEDULED_AT_ONCE)
        return Registered(sorted(found.name for found in client.read_deployments()), notified)


def _deploy() -> None:
    yaml = str(PROJECT / "prefect.yaml")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", yaml]
    environment = settings.for_children()
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise NanochatError(f"`prefect deploy --all` failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def main() -> None:
    """Says what is registered, or in one sentence why it is not."""
    settings.settle()
    try:
        load()
        expect(prefect_environment.api_url())
        made = register()
    except NanochatError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"deployments {', '.join(made.deployments)}\nwebhook     {'set' if made.notified else 'none'}\n")


if __name__ == "__main__":
    main()
