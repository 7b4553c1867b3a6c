"""Commands for a site, a Prefect server with workers on this machine: `up`, `down`."""

from functools import partial
from typing import Annotated

from cyclopts import Parameter

from nanochat.cli.app import app, need_home, out


@app.command
def up(
    *,
    gpu: Annotated[
        bool | None, Parameter(help="Start a worker for the pool `gpu`; by default if this machine has a GPU.")
    ] = None,
) -> None:
    """Start a Prefect server, workers and all deployments on this machine, and leave them running.

    Example: `nanochat up`, then start a run from the page whose address it prints
    """
    from flows.site.up import up as start
    from nanochat.workers.launch import gpu_count

    need_home()
    with out.status("starting"):
        start(partial(out.print, markup=False), gpu=gpu_count() > 0 if gpu is None else gpu)


@app.command
def down() -> None:
    """End the site that `nanochat up` started; its runs are cancelled, their finished stages are kept.

    Example: `nanochat down`
    """
    from flows.site.up import down as end

    with out.status("ending"):
        end(partial(out.print, markup=False))
